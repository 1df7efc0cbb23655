//! Writes a campaign's output to the terminal and to a file, so that a long run leaves evidence.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// The output of one campaign. Its folder, `target/chaos/NAME`, contains the printed lines and the logs of the daemons.
#[derive(Debug)]
pub(crate) struct Output {
    folder: PathBuf,
    /// Never contended. The lock is needed because [`Output::say`] takes `&self`.
    file: Mutex<File>,
}

impl Output {
    /// Creates the folder `chaos/NAME` in Cargo's target folder, which contains this program. If an earlier campaign
    /// left a folder with that name, removes it first.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let program = std::env::current_exe()?;
        let target = program.parent().and_then(Path::parent).context("this program lies in no target folder")?;
        let folder = target.join("chaos").join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        let file = Mutex::new(File::create(folder.join("campaign.log"))?);
        Ok(Self { folder, file })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn say(&self, text: impl AsRef<str>) {
        println!("{}", text.as_ref());
        // A full disk must not end a campaign, so ignore an error. The terminal shows the line in any case.
        drop(writeln!(self.file.lock().unwrap_or_else(PoisonError::into_inner), "{}", text.as_ref()));
    }

    pub(crate) fn keep(&self, name: &str, lines: &[String]) {
        drop(std::fs::write(self.folder.join(format!("{name}.log")), lines.join("\n") + "\n"));
    }
}
