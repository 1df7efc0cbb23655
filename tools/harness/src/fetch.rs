//! Downloads the servers from Maven Central by package name, once, and keeps them in the cache.
//!
//! A marker file, which is written last, marks a package as complete. It lists every file of the package with its size. A package
//! that differs from its list is downloaded again. A lock on a file beside the package keeps other processes from
//! downloading it meanwhile.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::kafka::template;
use crate::{cache, versions};

/// Maven's dependency plugin in a fixed version. The version that the installed Maven would choose may be too old to unpack.
const DEPENDENCY_PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1";
const MARKER: &str = "complete";
/// Brokers log with slf4j but include no backend for it. Without a backend, a failing broker prints nothing.
const LOGGING: &str = "org.slf4j:slf4j-simple:1.7.36";

#[derive(Debug, Clone)]
pub struct Jars {
    folder: PathBuf,
}

impl Jars {
    pub fn classpath(&self) -> String {
        format!("{}/*", self.folder.join("jars").display())
    }

    /// Returns the path of the file that lists the features of a new KRaft cluster. The file is copied into every new data
    /// folder. `in_data` is its path in a data folder.
    pub(crate) fn checkpoint(&self, in_data: &str) -> PathBuf {
        self.folder.join(in_data)
    }

    /// Returns the path of the archive of a broker's loaded classes, for `-XX:SharedArchiveFile`. The file is missing if the Java
    /// runtime could not save it, and in packages for ZooKeeper.
    pub fn class_archive(&self) -> PathBuf {
        self.folder.join("classes.jsa")
    }
}

/// Returns the jars of Apache Kafka for KRaft mode, in the version that [`crate::versions`] names.
pub fn kafka() -> Result<Jars> {
    kafka_of(&versions::kraft())
}

pub(crate) fn kafka_of(version: &str) -> Result<Jars> {
    let coordinates = [
        format!("org.apache.kafka:kafka_2.13:{version}"),
        format!("org.apache.kafka:kafka-tools:{version}"),
        LOGGING.into(),
    ];
    let folder = ensure_package(&format!("kafka-{version}-kraft"), |folder| {
        copy_jars(folder, &coordinates)?;
        template::prepare(&Jars { folder: folder.to_owned() })
    })?;
    Ok(Jars { folder })
}

/// Returns the jars of Apache Kafka in this version, and of the ZooKeeper that it depends on.
pub(crate) fn kafka_with_zookeeper(version: &str) -> Result<Jars> {
    let coordinates = [format!("org.apache.kafka:kafka_2.13:{version}"), LOGGING.into()];
    // The package for KRaft mode also contains a template for data folders. So this package needs another name.
    let folder = ensure_package(&format!("kafka-{version}-zookeeper"), |folder| copy_jars(folder, &coordinates))?;
    Ok(Jars { folder })
}

/// Returns the folder of PostgreSQL in the version that [`crate::versions`] names. It contains `bin/postgres` and `bin/initdb`.
///
/// # Errors
/// If `mvn` is missing or fails, and on platforms that have no package.
pub fn postgres() -> Result<PathBuf> {
    let platform = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "linux-amd64",
        ("linux", "aarch64") => "linux-arm64v8",
        ("macos", "x86_64") => "darwin-amd64",
        ("macos", "aarch64") => "darwin-arm64v8",
        (os, arch) => bail!("no PostgreSQL package for {os} on {arch}: set `DATABASE_URL`"),
    };
    let version = versions::postgres();
    let coordinate = format!("io.zonky.test.postgres:embedded-postgres-binaries-{platform}:{version}");
    ensure_package(&format!("postgres-{version}"), |folder| {
        let unpacked = folder.join("jar");
        run_maven(folder, "unpack-dependencies", &unpacked, std::slice::from_ref(&coordinate))?;
        unpack_archive(&unpacked, folder)?;
        Ok(fs::remove_dir_all(unpacked)?)
    })
}

/// Returns the folder of a package in the cache. If the folder is missing or incomplete, creates it and calls `fill` first.
fn ensure_package(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache::folder()?;
    let folder = cache.join(name);
    if is_whole(&folder) {
        return Ok(folder);
    }
    let lock_path = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).with_context(|| format!("could not open `{}`", lock_path.display()))?;
    lock.lock().with_context(|| format!("could not lock `{}`", lock_path.display()))?;
    // Another process may have filled the folder while we waited for the lock.
    if is_whole(&folder) {
        return Ok(folder);
    }
    eprintln!("fetching {name} into {}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("could not remove the broken `{}`", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("could not make `{}`", folder.display()))?;
    fill(&folder).with_context(|| format!("could not fetch {name}"))?;
    write_marker(&folder)?;
    Ok(folder)
}

/// Writes the file that marks a package as complete. It has one line per file of the package: the size, a space, and the path
/// below `folder`.
fn write_marker(folder: &Path) -> Result<()> {
    let mut lines = String::new();
    let mut to_visit = vec![folder.to_owned()];
    while let Some(visited) = to_visit.pop() {
        for entry in fs::read_dir(&visited)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                to_visit.push(entry.path());
            } else {
                let path = entry.path();
                let below = path.strip_prefix(folder)?.to_str().context("a path in a package is not UTF-8")?;
                lines += &format!("{} {below}\n", entry.path().metadata()?.len());
            }
        }
    }
    ensure!(!lines.is_empty(), "the package is empty");
    let partial = folder.join("complete.partial");
    fs::write(&partial, lines)?;
    Ok(fs::rename(partial, folder.join(MARKER))?)
}

fn is_whole(folder: &Path) -> bool {
    let Ok(marker) = fs::read_to_string(folder.join(MARKER)) else { return false };
    !marker.is_empty()
        && marker.lines().all(|line| {
            line.split_once(' ').is_some_and(|(size, path)| {
                let found = folder.join(path).metadata().map(|metadata| metadata.len());
                found.is_ok_and(|found| size.parse() == Ok(found))
            })
        })
}

fn copy_jars(folder: &Path, coordinates: &[String]) -> Result<()> {
    run_maven(folder, "copy-dependencies", &folder.join("jars"), coordinates)
}

/// Runs one goal of Maven's dependency plugin. `coordinates` lists the packages on which the goal acts.
fn run_maven(folder: &Path, goal: &str, output: &Path, coordinates: &[String]) -> Result<()> {
    let dependencies: String = coordinates
        .iter()
        .map(|coordinate| {
            let parts: Vec<&str> = coordinate.split(':').collect();
            let [group, artifact, version] = parts[..] else { bail!("`{coordinate}` is no Maven coordinate") };
            Ok(format!(
                "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
            ))
        })
        .collect::<Result<_>>()?;
    let project = folder.join("pom.xml");
    fs::write(
        &project,
        format!(
            "<project><modelVersion>4.0.0</modelVersion><groupId>tidegate</groupId><artifactId>fetch</artifactId>\
             <version>1</version><dependencies>{dependencies}</dependencies></project>\n"
        ),
    )?;
    let mut maven = Command::new("mvn");
    maven.args(["--quiet", "--batch-mode", "--file"]).arg(&project);
    maven.arg(format!("{DEPENDENCY_PLUGIN}:{goal}")).arg(format!("-DoutputDirectory={}", output.display()));
    run(&mut maven, "install Maven (Debian: apt-get install maven) or set KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL")
}

/// Runs a program to its end. Its output is shown only if it fails. The error says `when_missing` if the program isn't installed.
pub(crate) fn run(command: &mut Command, when_missing: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("{program} is not on PATH: {when_missing}"),
        Err(error) => return Err(error).with_context(|| format!("could not run {program}")),
    };
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{program} failed with {}:\n{}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}

/// Returns an error if no folder of `PATH` contains `java`.
pub(crate) fn require_java() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    ensure!(
        std::env::split_paths(&path).any(|folder| folder.join("java").is_file()),
        "java is not on PATH: {JAVA_MISSING}"
    );
    Ok(())
}

pub(crate) const JAVA_MISSING: &str = "install a Java runtime of version 17 or later (Debian: apt-get install default-jre-headless) or set KAFKA_BOOTSTRAP_SERVERS";

/// Unpacks the only .txz file in `unpacked` into `folder`. This process decompresses the file, because many machines don't have
/// `xz`. Then `tar` unpacks it, which nearly every machine has.
fn unpack_archive(unpacked: &Path, folder: &Path) -> Result<()> {
    let archive = fs::read_dir(unpacked)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "txz"))
        .context("the PostgreSQL package holds no .txz")?;
    let plain = folder.join("postgres.tar");
    let compressed = std::io::BufReader::new(File::open(archive)?);
    std::io::copy(&mut lzma_rust2::XzReader::new(compressed, true), &mut File::create(&plain)?)
        .context("could not decompress the PostgreSQL package")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--file"]).arg(&plain).arg("--directory").arg(folder);
    run(&mut tar, "install it (Debian: apt-get install tar)")?;
    Ok(fs::remove_file(plain)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_package_with_a_missing_or_shortened_file_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_whole(folder.path()));
        fs::create_dir(folder.path().join("lib")).unwrap();
        fs::write(folder.path().join("lib/a b.jar"), "1234").unwrap();
        write_marker(folder.path()).unwrap();
        assert!(is_whole(folder.path()));
        fs::write(folder.path().join("lib/a b.jar"), "123").unwrap();
        assert!(!is_whole(folder.path()));
        fs::remove_file(folder.path().join("lib/a b.jar")).unwrap();
        assert!(!is_whole(folder.path()));
    }
}
