//! The live page in headless Chromium. The tests check the text that a person sees.
//!
//! `tests/browser/run.sh` installs the browser and its driver; `TIDEGATE_SKIP_BROWSER=1` skips these tests. Screenshots are
//! stored in `target/page`.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_harness::usage::cpu_time;
use tidegate_harness::{
    Daemon, Kafka, KafkaSpec, Postgres, PostgresSpec, Record, eventually, eventually_async, shared,
};

use crate::page::address;
use crate::support::{PATIENCE, World, spec};

pub(crate) struct Browser {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    /// Returns `None` if these tests are to be skipped.
    pub(crate) fn start() -> Option<Self> {
        if std::env::var_os("TIDEGATE_SKIP_BROWSER").is_some_and(|skip| skip == "1") {
            eprintln!("left out: TIDEGATE_SKIP_BROWSER=1");
            return None;
        }
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
        let install = Command::new(folder.join("run.sh")).arg("--install").status().expect("run.sh runs");
        assert!(install.success(), "the browser can't be installed: see above");
        let mut child = Command::new("node")
            .arg(folder.join("driver.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Some(Self { child, commands, answers })
    }

    pub(crate) fn tell(&mut self, command: &Value) -> Result<Value, String> {
        writeln!(self.commands, "{command}").expect("the driver listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the driver answers");
        let mut answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["value"].take()),
        }
    }

    pub(crate) fn open(&mut self, address: &str) {
        self.tell(&json!({"do": "open", "url": format!("http://{address}/")})).expect("the page loads");
    }

    pub(crate) fn view(&mut self, view: Value) {
        let mut command = view;
        command["do"] = json!("view");
        self.tell(&command).expect("the view opens");
    }

    pub(crate) fn eval(&mut self, script: &str) -> Value {
        self.tell(&json!({"do": "eval", "script": script})).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    pub(crate) fn text(&mut self, selector: &str) -> String {
        let script = format!("(document.querySelector({}) || {{textContent: ''}}).textContent", json!(selector));
        self.eval(&script).as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn await_text(&mut self, selector: &str, text: &str) {
        let mut last = String::new();
        let found = eventually(&format!("{selector} says {text:?}"), PATIENCE, || {
            last = self.text(selector);
            last.contains(text)
        });
        found.unwrap_or_else(|error| panic!("{error:#}; it says {last:?}"));
    }

    pub(crate) fn await_another_second(&mut self) {
        let second = self.text("#clock");
        eventually("a second passes", PATIENCE, || self.text("#clock") != second).unwrap();
    }

    /// Returns one text per box (consumer) on the board, with the box's partitions: `["c0: 0 1", "c1: idle"]`.
    pub(crate) fn boxes(&mut self) -> Vec<String> {
        let script = "[...document.querySelectorAll('#board .seat')].map((seat) => seat.dataset.seat.split('/').pop() + ': ' + \
             ([...seat.querySelectorAll('.chip')].map((chip) => chip.dataset.partition).join(' ') || 'idle'))";
        serde_json::from_value(self.eval(script)).unwrap()
    }

    pub(crate) fn shoot(&mut self, name: &str) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("page");
        std::fs::create_dir_all(&folder).unwrap();
        let to = folder.join(format!("{name}.png"));
        self.tell(&json!({"do": "shoot", "to": to})).expect("the screenshot is taken");
    }

    /// Takes screenshots at the widths of a phone, a laptop and a large screen. Checks that nothing overflows horizontally.
    pub(crate) fn shoot_each(&mut self, name: &str) {
        for width in [320, 1600, 1280] {
            self.tell(&json!({"do": "resize", "width": width, "height": 900})).expect("the window changes");
            // The charts are drawn again in a later frame. A page without a daemon has a clock but no charts, so wait for the
            // clock.
            self.await_another_second();
            let sticks_out = "[...document.querySelectorAll('#app *')].filter((e) => !e.closest('.unseen, thead, .uplot, details:not([open]) > table') \
                 && e.getBoundingClientRect().right > innerWidth + 1).map((e) => `${e.tagName} ${e.id} ${e.className}: ${e.textContent.slice(0, 60)}`)";
            self.shoot(&format!("{name}-{width}"));
            assert_eq!(self.eval(sticks_out), json!([]), "{name} at {width} px");
        }
    }

    /// Checks that no script raised an error, the content policy blocked nothing, no dialog opened, and no request went to
    /// another machine.
    pub(crate) fn assert_clean(&mut self) {
        let errors = self.tell(&json!({"do": "errors"})).unwrap();
        assert_eq!(errors, json!([]), "the page logged errors");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Returns the daemon's CPU time during the next `seconds`, in percent of one core.
fn cpu_share(daemon: &Daemon, seconds: u64) -> f64 {
    let (started, before) = (Instant::now(), cpu_time(daemon.pid(), false).unwrap());
    // This sleep is the length of the measurement. It is not a wait for an event.
    std::thread::sleep(Duration::from_secs(seconds));
    (cpu_time(daemon.pid(), false).unwrap() - before).as_secs_f64() / started.elapsed().as_secs_f64() * 100.0
}

pub(crate) async fn world(partitions: i32) -> World {
    let world = World::new(partitions).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    world
}

pub(crate) fn pool(world: &World, consumers: u32) -> String {
    world.config(&format!(
        "consumers = {consumers}\ntable.name = \"rides\"\nbatch.max_age = \"50ms\"\ndead_letters.max_share = 1.0"
    ))
}

pub(crate) fn start(config: &str) -> (Daemon, String) {
    let daemon = Daemon::spawn(&spec(config)).expect("the daemon starts");
    daemon.await_until("it listens", PATIENCE, |daemon| daemon.get("/healthz").is_ok()).unwrap();
    (daemon, address(config))
}

pub(crate) fn rides(world: &World, partitions: i32, count: i32) {
    world.produce((0..count).map(|n| Record::new(format!(r#"{{"id":{n}}}"#)).to(n % partitions)));
}

/// Returns how many partitions each box contains, in ascending order. Checks that no partition is missing.
fn shares(boxes: &[String], partitions: usize) -> Vec<usize> {
    let mut all: Vec<&str> = Vec::new();
    let mut sizes: Vec<usize> = boxes
        .iter()
        .map(|text| {
            let chips: Vec<&str> = text.split(": ").nth(1).unwrap().split(' ').filter(|chip| *chip != "idle").collect();
            all.extend(&chips);
            chips.len()
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), partitions, "each partition stands there once: {boxes:?}");
    sizes.sort_unstable();
    sizes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_explains_how_partitions_are_assigned() {
    let Some(mut browser) = Browser::start() else { return };
    let rules: [(i32, u32, &str, &[usize]); 5] = [
        (1, 1, "1 partition, 1 consumer: it reads it", &[1]),
        (4, 1, "4 partitions, 1 consumer: it reads them all", &[4]),
        (4, 2, "4 partitions, 2 consumers: 2 each", &[2, 2]),
        (4, 3, "4 partitions, 3 consumers: 1 to 2 each", &[1, 1, 2]),
        (4, 5, "4 partitions, 5 consumers: 1 idle, because each partition has another consumer", &[0, 1, 1, 1, 1]),
    ];
    for (partitions, consumers, rule, sizes) in rules {
        let world = world(partitions).await;
        let (_daemon, at) = start(&pool(&world, consumers));
        browser.open(&at);
        browser.await_text("#rule", rule);
        rides(&world, partitions, 400);
        assert_eq!(shares(&browser.boxes(), partitions as usize), sizes, "{rule}");
        browser.await_text("#sentences", "Everything flows.");
        if consumers == 5 {
            assert_eq!(browser.eval("document.querySelectorAll('.seat.idle').length"), 1);
            browser.shoot_each("idle");
        }
    }
    browser.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_group_reads_everything_again_and_a_second_instance_shares() {
    let Some(mut browser) = Browser::start() else { return };
    let world = world(4).await;
    world.sql("CREATE TABLE fares (id bigint)").await;
    let more = format!(
        "[pipelines.fare]\ntopics = [\"{}\"]\ngroup = \"{}-fare\"\nconsumers = 2\ntable.name = \"fares\"\n",
        world.topic, world.name
    );
    let (_first, at) = start(&format!("{}{more}", pool(&world, 1)));
    browser.open(&at);
    for (pipeline, rule) in
        [(world.name.as_str(), "4 partitions, 1 consumer"), ("fare", "4 partitions, 2 consumers: 2 each")]
    {
        let row = format!("#pipelines tr[data-name=\"{pipeline}\"]");
        browser.await_text(&row, "flowing");
        browser.tell(&json!({"do": "click", "at": row})).unwrap();
        browser.await_text("#rule", rule);
        browser.await_text("#group", &format!("topic {} · 4 partitions · group ", world.topic));
        let sizes: &[usize] = if pipeline == "fare" { &[2, 2] } else { &[4] };
        assert_eq!(shares(&browser.boxes(), 4), sizes, "each group has every partition: {pipeline}");
    }
    rides(&world, 4, 1000);
    for table in ["rides", "fares"] {
        let sql = format!("SELECT count(*) FROM {table}");
        let all = eventually_async("a group has read everything", PATIENCE, async || world.number(&sql).await == 1000);
        all.await.unwrap_or_else(|error| panic!("{table}: {error:#}"));
    }
    browser.await_text("#sentences", "Every record is written.");
    browser.tell(&json!({"do": "click", "at": format!("#pipelines tr[data-name=\"{}\"]", world.name)})).unwrap();
    let second_config = pool(&world, 1);
    let (second, _) = start(&second_config);
    browser.await_text("#rule", "4 partitions, 2 consumers: 2 each");
    assert_eq!(browser.eval("document.querySelectorAll('#board .instance').length"), 2);
    assert_eq!(shares(&browser.boxes(), 4), [2, 2]);
    browser.shoot_each("two-instances");
    // A chip that has moved must show where it came from.
    second.terminate().unwrap();
    second.wait_exit(PATIENCE).unwrap();
    browser.await_text("#board", "was ");
    browser.await_text("#rule", "4 partitions, 1 consumer: it reads them all");
    browser.shoot("rebalanced");
    browser.await_text("#timeline", "is gone");
    browser.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_shown_in_words_until_it_ends() {
    let Some(mut browser) = Browser::start() else { return };
    let postgres: &'static Postgres =
        Box::leak(Box::new(Postgres::start(&PostgresSpec::default()).expect("Postgres starts")));
    let world = World::on(shared::kafka().expect("Kafka starts"), postgres, 2).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    let (_daemon, at) = start(&pool(&world, 2));
    browser.open(&at);
    for _ in 0..5 {
        rides(&world, 2, 2000);
        browser.await_text("#sentences", "Everything flows.");
    }
    postgres.stop().unwrap();
    rides(&world, 2, 5000);
    browser.await_text("#sentences", "for Postgres");
    browser.await_text("#sentences", "Nothing is lost");
    browser.await_text("#sentences", "records wait in Kafka");
    browser.await_text("#board", "◷");
    browser.await_text("#pipelines", "waiting for Postgres");
    // Changes are announced to screen readers at most every ten seconds. Wait for the announcement.
    browser.await_text("#spoken", "waited");
    browser.await_text("#timeline", "waits: ");
    browser.shoot_each("postgres-away");
    postgres.start_again().unwrap();
    browser.await_text("#sentences", "Everything flows.");
    browser.await_text("#timeline", "writes again after");
    for kind in ["outage", "recovered"] {
        let script = format!("document.querySelectorAll('#timeline li[data-kind={kind}]').length");
        assert_eq!(
            browser.eval(&script),
            1,
            "two consumers waited, and one line says so: {}",
            browser.text("#timeline")
        );
    }
    browser.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_lives_through_a_restart_of_the_daemon() {
    let Some(mut browser) = Browser::start() else { return };
    let world = world(2).await;
    let config = pool(&world, 1);
    let (daemon, at) = start(&config);
    browser.open(&at);
    browser.await_text("#live", "live");
    browser.await_text("#sentences", "Everything flows.");
    let before = browser.text("#where");
    let clock = browser.text("#clock");
    daemon.kill().unwrap();
    browser.await_text("#live", "last seen");
    browser.await_text("#sentences", "has not answered since");
    let ticks = eventually("the clock goes on", PATIENCE, || browser.text("#clock") != clock);
    ticks.unwrap();
    browser.shoot_each("gone");
    let (_daemon, _) = start(&config);
    browser.await_text("#live", "live");
    browser.await_text("#sentences", "Everything flows.");
    assert_ne!(browser.text("#where"), before);
    rides(&world, 2, 100);
    browser.await_text("#batches", "closed by");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_errors_are_text_whatever_they_hold() {
    let Some(mut browser) = Browser::start() else { return };
    let world = world(1).await;
    let evil = "<img src=x onerror=alert(1)><script>alert(2)</script>";
    let (daemon, at) = start(&pool(&world, 1));
    daemon.await_ready(PATIENCE).unwrap();
    // Any client that may write to the table can give an instance any name, so the page must escape names.
    let consumers = json!({ &world.name: 2 }).to_string();
    world.sql(&format!("INSERT INTO tidegate.instance (id, host, url, version, consumers, seen_at) VALUES ('{evil}', '{evil}', 'javascript:alert(3)', '{evil}', '{consumers}', now() + interval '1 hour')")).await;
    // A trigger can raise any text too.
    world.sql(&format!("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION '{}' USING ERRCODE = '53100'; END $f$; CREATE TRIGGER refuse BEFORE INSERT ON rides FOR EACH STATEMENT EXECUTE FUNCTION refuse()", evil.replace('%', "%%"))).await;
    rides(&world, 1, 1);
    browser.open(&at);
    browser.await_text("#sentences", evil);
    browser.await_text("#board", evil);
    browser.await_text("#timeline", evil);
    assert_eq!(browser.eval("document.querySelectorAll('#app img, #app script, #app a[href^=javascript]').length"), 0);
    browser.view(json!({"script": false}));
    browser.open(&at);
    let inserted = "document.querySelectorAll('img, main script').length";
    assert_eq!(browser.eval(inserted), 0);
    assert!(browser.text("#snapshot").contains(evil));
    browser.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fits_a_phone_the_dark_a_keyboard_and_a_browser_without_scripts() {
    let Some(mut browser) = Browser::start() else { return };
    let world = world(8).await;
    world.sql("CREATE TABLE fares (id bigint)").await;
    let more = format!(
        "[pipelines.fare]\ntopics = [\"{}\"]\ngroup = \"{}-fare\"\ntable.name = \"fares\"\nflow.max_rows_per_second = 300\n",
        world.topic, world.name
    );
    let (daemon, at) = start(&format!("{}{more}", pool(&world, 3)));
    daemon.await_ready(PATIENCE).unwrap();
    world.produce([Record::new("no json").to(0)]);
    browser.view(json!({"width": 1280, "height": 900}));
    browser.open(&at);
    // Wait until the chart has enough points for a line.
    for round in 0..20 {
        rides(&world, 8, 200 + 40 * (round % 7));
        browser.await_another_second();
    }
    browser.await_text("#dead", "invalid_json");
    browser.shoot_each("flowing");
    let painted = "(() => { const c = document.querySelector('#chart-rate canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return d.some((v) => v !== 0); })()";
    assert_eq!(browser.eval(painted), true, "the chart draws");
    browser.shoot("well");
    // The sections below follow the selection in the table. At first, the page selects the pipeline with the worst problem, which
    // may be either one. So click the first row, and then use the keyboard.
    browser.eval("document.querySelector('#pipelines tr[tabindex]').click()");
    browser.await_text("#readers .which", "fare");
    browser.eval("document.querySelector('#pipelines tr[tabindex=\"0\"]').focus()");
    let before = browser.text("#readers .which");
    for key in ["ArrowDown", "ArrowUp"] {
        browser.tell(&json!({"do": "press", "key": key})).unwrap();
    }
    browser.await_text("#readers .which", &before);
    browser.tell(&json!({"do": "press", "key": "ArrowDown"})).unwrap();
    let moved = eventually("the next pipeline is shown", PATIENCE, || browser.text("#readers .which") != before);
    moved.unwrap();
    for (name, view) in [
        ("dark", json!({"dark": true})),
        ("phone", json!({"width": 320, "height": 700})),
        ("phone-dark", json!({"width": 320, "height": 700, "dark": true})),
    ] {
        browser.view(view);
        browser.open(&at);
        browser.await_text("#live", "live");
        browser.await_text("#sentences", "written");
        let painted = eventually("the chart draws", PATIENCE, || {
            browser.eval("document.querySelector('#chart-rate canvas') !== null") == true
        });
        painted.unwrap();
        browser.shoot(name);
        assert_eq!(
            browser.eval("document.documentElement.scrollWidth <= innerWidth"),
            true,
            "{name}: nothing is cut off at the side"
        );
    }
    browser.assert_clean();
    browser.view(json!({"script": false}));
    browser.open(&at);
    assert!(browser.text("#snapshot").contains("PIPELINES"));
    browser.shoot("no-script");
    let names = "[...document.querySelectorAll('section')].every((s) => s.getAttribute('aria-labelledby') && document.getElementById(s.getAttribute('aria-labelledby')))";
    assert_eq!(browser.eval(names), true, "each region has a heading");
}

/// Produces records to each partition of the topic every half second, so that the numbers on the page keep changing.
struct Trickle {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trickle {
    fn start(world: &World, partitions: i32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (kafka, topic, told) = (world.kafka, world.topic.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let began = Instant::now();
                let records = (0..partitions).map(|n| Record::new(format!(r#"{{"id":{n}}}"#)).to(n));
                kafka.produce(&topic, records).expect("Kafka takes the records");
                // This sleep sets the rate of the load. It is not a wait for an event.
                std::thread::sleep(Duration::from_millis(500).saturating_sub(began.elapsed()));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

const THREE_CHANGES: &str = "new Promise((done) => { let n = 0; const stream = new EventSource('/api/events'); \
    stream.addEventListener('change', () => { n += 1; if (n === 3) { stream.close(); done(n); } }); })";

#[tokio::test(flavor = "multi_thread")]
async fn ten_pipelines_and_a_thousand_partitions_load_and_change() {
    let Some(mut browser) = Browser::start() else { return };
    let kafka = Box::leak(Box::new(Kafka::start(&KafkaSpec::single()).expect("Kafka starts")));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), 100).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    let mut config = pool(&world, 1).replace("[kafka]", "[limits]\nmemory = \"2GiB\"\n[kafka]");
    for n in 1..10 {
        world.sql(&format!("CREATE TABLE rides_{n} (id bigint)")).await;
        config.push_str(&format!(
            "[pipelines.p{n}]\ntopics = [\"{}\"]\ngroup = \"{}-{n}\"\ntable.name = \"rides_{n}\"\n",
            world.topic, world.name
        ));
    }
    let (daemon, at) = start(&config);
    daemon.await_ready(PATIENCE).unwrap();
    rides(&world, 100, 20_000);
    browser.view(json!({}));
    let started = Instant::now();
    browser.open(&at);
    browser.await_text("#rule", "100 partitions, 1 consumer");
    let took = started.elapsed();
    let loaded = browser.eval("performance.getEntriesByType('navigation')[0].loadEventEnd").as_f64().unwrap();
    println!("read in {took:?}, the load event after {loaded:.0} ms");
    browser.shoot("ten-pipelines");
    let trickle = Trickle::start(&world, 100);
    assert_eq!(browser.eval(THREE_CHANGES), 3);
    browser.assert_clean();
    let Some(seconds) = std::env::var("TIDEGATE_MEASURE_SECONDS").ok().and_then(|text| text.parse().ok()) else {
        return;
    };
    // Measure the daemon's CPU time with and without a viewer, each while records flow and while nothing flows.
    let moving = cpu_share(&daemon, seconds);
    drop(trickle);
    let still = cpu_share(&daemon, seconds);
    drop(browser);
    let still_unseen = cpu_share(&daemon, seconds);
    let trickle = Trickle::start(&world, 100);
    let moving_unseen = cpu_share(&daemon, seconds);
    drop(trickle);
    println!(
        "CPU of the daemon in % of a core, with a viewer and without: {still:.2} and {still_unseen:.2} while nothing flows, \
         {moving:.2} and {moving_unseen:.2} while all moves"
    );
}
