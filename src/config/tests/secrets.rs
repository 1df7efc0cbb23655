use super::{BASE, load, load_faults, parse, with};
use crate::config::PostgresUrl;

const SECRET: &str = "hunter2";

#[test]
fn neither_debug_nor_display_shows_a_secret() {
    let toml = with(
        r#"
        [kafka.properties]
        "sasl.password" = "hunter2"
        [pipelines.other]
        topics = ["b"]
        table.name = "b"
        kafka = { "ssl.key.password" = "hunter2" }
        "#,
    )
    .replace("tidegate@", "tidegate:hunter2@");
    let config = parse(&toml).unwrap_or_else(|faults| panic!("{faults}"));
    for shown in [format!("{config}"), format!("{config:?}"), format!("{config:#?}")] {
        assert!(!shown.contains(SECRET), "{shown}");
        assert!(shown.contains("***"), "{shown}");
    }
    assert_eq!(config.kafka.properties["sasl.password"].expose(), SECRET);
}

#[test]
fn no_fault_shows_a_secret() {
    let texts = [
        "postgres.url = \"mysql://u:hunter2@h/d\"",
        "postgres.url = \"postgres://u:hunter2@h:port/d\"",
        "postgres.url = [\"hunter2\"]",
        "postgres.url = \"hunter2",
        "postgres = \"hunter2\"",
        "postgres.urll = \"hunter2\"",
        "kafka.properties.\"sasl.passwort\" = \"hunter2\"",
        "kafka.properties.\"sasl.password\" = [\"hunter2\"]",
        "kafka.properties.\"security.protocol\" = \"hunter2\"",
        "kafka.properties.\"sasl.password\" = hunter2",
        "kafka.properties.\"sasl.password\" = \"hunter2\\u0000\"",
    ];
    for toml in texts {
        let faults = parse(toml).expect_err(toml);
        assert!(!format!("{faults}{faults:?}").contains(SECRET), "{faults}");
    }
    let variables = [
        ("TIDEGATE__POSTGRES__URL", SECRET),
        ("TIDEGATE__POSTGRES", SECRET),
        ("TIDEGATE__KAFKA__PROPERTIES", SECRET),
        ("TIDEGATE__KAFKA__PROPERTIES__SASL_PASSWORT", SECRET),
        ("TIDEGATE__KAFKA__PROPERTIES__SECURITY_PROTOCOL", SECRET),
    ];
    for variable in variables {
        let faults = load(&[BASE], &[variable]).expect_err(variable.0);
        assert!(!format!("{faults}{faults:?}").contains(SECRET), "{faults}");
    }
}

#[test]
fn a_property_comes_from_a_file_without_its_newline() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("tidegate.toml");
    std::fs::write(folder.path().join("password"), "hunter2 \n").expect("a file");
    std::fs::write(&config, with("[kafka.properties]\n\"sasl.password_file\" = \"password\"")).expect("a file");
    let loaded = crate::config::Config::load(&[config], std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.kafka.properties["sasl.password"].expose(), "hunter2 ");
    assert!(!loaded.kafka.properties.contains_key("sasl.password_file"));
}

#[test]
fn a_url_file_is_found_beside_the_file_that_names_it() {
    let toml = BASE.replace("url = \"postgres://tidegate@127.0.0.1:5432/telemetry\"", "url_file = \"secret/url\"");
    let config = crate::config::Config::parse("/etc/tidegate/tidegate.toml", &toml).expect("right");
    assert!(
        matches!(&config.postgres.url, PostgresUrl::File(path) if path.to_str() == Some("/etc/tidegate/secret/url"))
    );
}

#[test]
fn a_later_layer_swaps_a_secret_for_a_file_and_back() {
    let file = "[postgres]\nurl_file = \"/run/url\"";
    let config = load(&[BASE, file], &[]).expect("the later one holds");
    assert!(matches!(config.postgres.url, PostgresUrl::File(_)));
    let config = load(&[BASE, file], &[("TIDEGATE__POSTGRES__URL", "postgres://a@b/c")]).expect("the variable holds");
    assert!(matches!(&config.postgres.url, PostgresUrl::Inline(url) if url.expose() == "postgres://a@b/c"));
    let properties = "[kafka.properties]\n\"sasl.password_file\" = \"/none\"";
    let config =
        load(&[BASE, properties], &[("TIDEGATE__KAFKA__PROPERTIES__SASL_PASSWORD", SECRET)]).expect("no file read");
    assert_eq!(config.kafka.properties["sasl.password"].expose(), SECRET);
    let both = format!("{properties}\n\"sasl.password\" = \"x\"");
    assert_eq!(
        load_faults(&[BASE, &both], &[]),
        ["1.toml:3:1  kafka.properties.\"sasl.password\": sasl.password_file is set too; keep one of the two"]
    );
}
