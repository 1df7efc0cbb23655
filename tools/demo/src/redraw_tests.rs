//! Checks that plots and page are made from the raw files only.

use std::fs;
use std::path::Path;

use crate::{draw, report::Report};

const LADDER: &str = "rung,setting,round,turn,rows,seconds,rows_per_second,database_cpu_s_per_million,client_cpu_s_per_million,\
    kafka_cpu_s_per_million,wal_bytes_per_row\n\
    INSERT per record,8 clients × 1 rows,1,1,10000,1,10000,40,30,0,320\n\
    COPY binary,2 clients × 50 000 rows,1,2,300000,1,300000,3,0.4,0,180\n\
    tidegate from Kafka,2 clients × 50 000 rows,1,3,270000,1,270000,3.2,1,0.2,181\n";
const SERVICES: &str = "service,sent,expected,in_table,missing,twice,wrong,dead_letters,largest_lag,what\n\
    fare,1000,90,90,0,0,WRONG,0,12,fares <b>of 90 trips</b>\n";

fn write(folder: &Path, wrong: &str) {
    let save = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    save("ladder.csv", LADDER);
    save("services.csv", &SERVICES.replace("WRONG", wrong));
    save("services-series.csv", "second,service,sent,written,lag\n1,fare,10,5,5\n2,fare,20,20,0\n");
    save("services-events.csv", "second,kind,event\n1.5,board,a board\n");
    save("run.json", "{\"seed\": 7}");
}

#[test]
fn the_same_files_give_the_same_plots_and_page() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "0");
    let drawn = draw::draw(folder.path()).unwrap();
    assert_eq!(drawn, ["ladder.svg", "services.svg"]);
    let read = || {
        Report::read(folder.path()).unwrap().save(folder.path()).unwrap();
        fs::read_to_string(folder.path().join("report.html")).unwrap()
    };
    let page = read();
    draw::draw(folder.path()).unwrap();
    assert_eq!(page, read());
    assert!(page.contains("&quot;seed&quot;: 7"), "{page}");
    // Text from a file must be escaped, so that a browser shows it and doesn't execute it.
    assert!(page.contains("fares &lt;b&gt;of 90 trips") && !page.contains("fares <b>"), "{page}");
}

#[test]
fn the_verdict_is_the_files_alone() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "0");
    assert!(Report::read(folder.path()).unwrap().is_good());
    write(folder.path(), "1");
    assert!(!Report::read(folder.path()).unwrap().is_good());
    let worse = Report::read(folder.path()).unwrap();
    let texts: Vec<&str> = worse.ladder.iter().map(|sentence| sentence.text.as_str()).collect();
    assert!(texts.iter().any(|text| text.contains("30 times the first")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("90 % of COPY from memory")), "{texts:?}");
}
