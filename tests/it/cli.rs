//! The commands as a user runs them: arguments, exit code, what is printed.

use std::process::{Command, Output};

use crate::support::{World, program};

/// What a command came to.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Holds that it went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self}");
        self
    }

    /// Holds that it failed with this code and said each of these once.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, said: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self}");
        for words in said {
            assert!(self.err.contains(words) != self.out.contains(words), "{words:?} not once in: {self}");
        }
        self
    }

    /// Holds that it printed these.
    #[track_caller]
    pub(crate) fn says(self, said: &[&str]) -> Self {
        for words in said {
            assert!(self.out.contains(words), "no {words:?} in: {self}");
        }
        self
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {}\n--- out\n{}\n--- err\n{}", self.code, self.out, self.err)
    }
}

/// Runs `tidegate ARGUMENTS --config FILE`, where the file holds `config`.
pub(crate) fn tidegate(config: &str, arguments: &[&str]) -> Ran {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    std::fs::write(&file, config).expect("the configuration is written");
    let run = Command::new(program()).args(arguments).arg("--config").arg(&file).output();
    let Output { status, stdout, stderr } = run.expect("tidegate runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: status.code().expect("an exit code"), out: text(stdout), err: text(stderr) }
}

impl World {
    /// What of ours there is in the database: nothing but `check` may leave it as it was.
    pub(crate) async fn schemas(&self) -> i64 {
        self.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'tidegate'").await
    }
}
