//! Creates, configures, copies and reads the data folder of a Postgres.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::PostgresSpec;
use crate::process::User;
use crate::tls::{Authority, Identity};
use crate::{TunedFor, fetch};

pub(super) fn initialize(binaries: &Path, data: &Path, user: Option<User>) -> Result<()> {
    let mut initdb = Command::new(binaries.join("initdb"));
    initdb.arg("--pgdata").arg(data);
    initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]);
    initdb.env("LC_ALL", "C").current_dir("/");
    if let Some(User { uid, gid }) = user {
        initdb.uid(uid).gid(gid);
    }
    fetch::run(&mut initdb, "the PostgreSQL package is broken; remove it from the cache")
}

pub(super) fn write_settings(spec: &PostgresSpec, data: &Path, socket_folder: &Path, port: u16) -> Result<()> {
    let mut text = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nmax_connections = 300\n\
         log_line_prefix = '%m [%p] %q%a '\n",
        socket_folder.display()
    );
    text += match spec.tuned_for {
        // With `mmap`, the shared memory of parallel queries is in files of the data folder. So nothing is left elsewhere after a
        // crash.
        TunedFor::Tests => "shared_buffers = 64MB\ndynamic_shared_memory_type = mmap\n",
        TunedFor::Speed => "shared_buffers = 512MB\nmax_wal_size = 4GB\n",
    };
    if spec.without_fsync {
        text += "fsync = off\n";
    }
    if spec.tls.is_some() {
        text += &format!("ssl = on\nssl_cert_file = '{CERTIFICATE}'\nssl_key_file = '{KEY}'\nssl_ca_file = '{CA}'\n");
    }
    for line in &spec.settings {
        text += line;
        text += "\n";
    }
    if !spec.access.is_empty() {
        let rules = data.join("pg_hba.conf");
        let others = fs::read_to_string(&rules)?;
        fs::write(rules, format!("{}\n{others}", spec.access.join("\n")))?;
    }
    // Postgres reads this file after `postgresql.conf`, which initdb wrote. So our settings take precedence.
    Ok(fs::write(data.join("postgresql.auto.conf"), text)?)
}

const CERTIFICATE: &str = "server.crt";
const KEY: &str = "server.key";
const CA: &str = "clients-ca.crt";

/// Copies the files that TLS needs into the data folder, with the owner and the permissions that Postgres requires of a key.
pub(super) fn install_certificate(
    authority: &Authority,
    identity: &Identity,
    data: &Path,
    user: Option<User>,
) -> Result<()> {
    let files = [(&identity.certificate, CERTIFICATE), (&identity.key, KEY), (&authority.certificate(), CA)];
    for (from, name) in files {
        let to = data.join(name);
        fs::copy(from, &to).with_context(|| format!("could not copy `{}`", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600))?;
        if let Some(User { uid, gid }) = user {
            chown(&to, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// Returns the user `nobody`, which exists on nearly every system and owns nothing.
pub(super) fn nobody() -> Result<User> {
    let ask = |what: &str| -> Result<u32> {
        let output = Command::new("id").args([what, "nobody"]).output().context("could not run `id`")?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        text.parse().context("there is no user `nobody` to run Postgres as, and as root it refuses to run")
    };
    Ok(User { uid: ask("-u")?, gid: ask("-g")? })
}

pub(super) fn make_folder_for(user: Option<User>, path: &Path) -> Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    if let Some(User { uid, gid }) = user {
        chown(path, Some(uid), Some(gid)).with_context(|| format!("could not hand `{}` over", path.display()))?;
    }
    Ok(())
}

/// Copies a folder with its owners and permissions, because Postgres checks them.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    ensure!(!to.exists(), "`{}` exists already", to.display());
    let mut cp = Command::new("cp");
    cp.arg("-a").arg(from).arg(to);
    fetch::run(&mut cp, "install it (Debian: apt-get install coreutils)")
}

/// Returns whether `postmaster.pid` says that the server with the process id `pid` accepts connections. After a crash, the file
/// contains another process id.
pub(super) fn says_ready(data: &Path, pid: u32) -> bool {
    const STATUS_LINE: usize = 7;
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let lines: Vec<&str> = text.lines().collect();
    lines.first().is_some_and(|first| first.trim() == pid.to_string())
        && lines.get(STATUS_LINE).is_some_and(|status| status.trim() == "ready")
}
