//! Chooses the cache folder, in which downloaded servers are kept between runs.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub(crate) const CHOSEN_BY: &str = "TIDEGATE_CACHE";
/// Root's cache folder, unless `$TIDEGATE_CACHE` is set or other users may enter the default folder.
const OF_ROOT: &str = "/var/cache/tidegate";

/// Returns the path of the cache folder, and creates the folder if it is missing. The path is `$TIDEGATE_CACHE`, or
/// else `$XDG_CACHE_HOME/tidegate`, or else `~/.cache/tidegate`.
///
/// If this process runs as root, Postgres runs as another user, who must be able to read the folder. So if the default folder is
/// closed to other users, `/var/cache/tidegate` is used instead.
///
/// # Errors
/// - The folder can't be created.
/// - This process runs as root, and `$TIDEGATE_CACHE` names a folder that is closed to other users.
/// - This process doesn't run as root, and none of the three variables is set.
pub fn folder() -> Result<PathBuf> {
    let folder = choose()?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("could not make the cache folder `{}`", folder.display()))?;
    Ok(folder)
}

fn choose() -> Result<PathBuf> {
    let is_root = rustix::process::geteuid().is_root();
    if let Some(chosen) = non_empty(CHOSEN_BY) {
        if is_root && !is_open_to_others(&chosen) {
            bail!(
                "`TIDEGATE_CACHE` is `{}`, which other users can't enter, and as root we run Postgres as `nobody`",
                chosen.display()
            );
        }
        return Ok(chosen);
    }
    let default = match (non_empty("XDG_CACHE_HOME"), non_empty("HOME")) {
        (Some(cache), _) => Some(cache.join("tidegate")),
        (None, Some(home)) => Some(home.join(".cache/tidegate")),
        (None, None) => None,
    };
    match default {
        Some(folder) if !is_root || is_open_to_others(&folder) => Ok(folder),
        Some(_) | None if is_root => Ok(PathBuf::from(OF_ROOT)),
        Some(_) | None => bail!("no cache folder: set `TIDEGATE_CACHE`, `XDG_CACHE_HOME` or `HOME`"),
    }
}

fn non_empty(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Returns whether other users may enter every existing folder of `path`. Missing folders don't count, because they will be
/// created with open permissions.
fn is_open_to_others(path: &Path) -> bool {
    const OTHERS_MAY_ENTER: u32 = 0o001;
    path.ancestors()
        .filter_map(|folder| folder.metadata().ok())
        .all(|metadata| metadata.permissions().mode() & OTHERS_MAY_ENTER != 0)
}
