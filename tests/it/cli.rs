//! The commands as a user runs them: arguments, exit code, output.

use std::process::{Command, Output};

use crate::support::{World, program};

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self}");
        self
    }

    /// Checks that the command failed with this exit code, and printed each of `said` on exactly one of its two output streams.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, said: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self}");
        for words in said {
            assert!(self.err.contains(words) != self.out.contains(words), "{words:?} not once in: {self}");
        }
        self
    }

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

/// Runs `tidegate ARGUMENTS --config FILE`, with `config` as the contents of the file.
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
    /// Returns 1 if the database has the schema `tidegate`, else 0. `check` must not create the schema.
    pub(crate) async fn schemas(&self) -> i64 {
        self.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'tidegate'").await
    }
}
