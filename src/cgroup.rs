//! The memory limit that a container or a service manager sets for the process's control group.

use std::fs;
use std::path::Path;

/// The highest share of the control group's limit, in percent, that `limits.memory` may have without a warning. The
/// remaining tenth is for memory that the kernel counts but `limits.memory` doesn't: thread stacks, socket buffers, the
/// binary's pages.
const MOST_PERCENT: u64 = 90;

/// A limit of at least this many bytes means "no limit", because no machine has that much memory. For "no limit", version 1 of
/// control groups writes the largest multiple of the page size below 2^63.
const UNLIMITED: u64 = 1 << 60;

/// Returns a warning if the memory budget, in bytes, is above [`MOST_PERCENT`] of the limit of this process's control
/// group.
pub(crate) fn warning(budget: u64) -> Option<String> {
    compare(budget, limit(Path::new("/"))?)
}

fn compare(budget: u64, limit: u64) -> Option<String> {
    let most = limit / 100 * MOST_PERCENT;
    (budget > most).then(|| {
        format!(
            "`limits.memory` is {} MiB, and the control group of this process may use {} MiB: the kernel may kill the process, and \
             records are then read again; set `limits.memory` to at most {} MiB, or raise the limit of the container or service",
            budget >> 20,
            limit >> 20,
            most >> 20
        )
    })
}

/// Returns the lowest memory limit, in bytes, of the process's control group and the groups above it; `None` if no limit is set
/// or none can be read. `root` is `/`, except in tests.
fn limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    groups.lines().filter_map(|line| limit_of(root, line)).min()
}

/// Returns the lowest limit that applies to the control group that a line of `/proc/self/cgroup` names. The line is
/// `0::/PATH` in version 2, and for example `4:memory:/PATH` in version 1.
fn limit_of(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        controllers if controllers.split(',').any(|name| name == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    // A group's limit also applies to the groups below it, so look at all folders up to the root. In a container, the path may be
    // the host's. Its folders don't exist here and are skipped, and the root of the mount is the container's own group.
    let folders = Path::new(path.trim_start_matches('/')).ancestors();
    let limits = folders.filter_map(|folder| fs::read_to_string(root.join(mount).join(folder).join(file)).ok());
    limits.filter_map(|text| text.trim().parse::<u64>().ok()).filter(|&bytes| bytes < UNLIMITED).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("the folder is made");
            fs::write(path, text).expect("the file is written");
        }
        root
    }

    #[test]
    fn version_2_the_lowest_limit_on_the_way_up_holds() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/system.slice/tidegate.service\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "268435456\n"),
            ("sys/fs/cgroup/system.slice/tidegate.service/memory.max", "max\n"),
        ]);
        assert_eq!(limit(root.path()), Some(256 << 20));
    }

    #[test]
    fn version_2_in_a_container_the_mount_is_the_group() {
        let root = tree(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "536870912\n")]);
        assert_eq!(limit(root.path()), Some(512 << 20));
        let root = tree(&[("proc/self/cgroup", "0::/kubepods/pod1/c1\n"), ("sys/fs/cgroup/memory.max", "1048576\n")]);
        assert_eq!(limit(root.path()), Some(1 << 20));
    }

    #[test]
    fn version_1_has_a_controller_of_its_own_and_a_number_for_no_limit() {
        let groups = "5:devices:/\n4:memory,hugetlb:/docker/abc\n0::/\n";
        let file = "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes";
        let root = tree(&[("proc/self/cgroup", groups), (file, "134217728\n")]);
        assert_eq!(limit(root.path()), Some(128 << 20));
        let root = tree(&[("proc/self/cgroup", groups), (file, "9223372036854771712\n")]);
        assert_eq!(limit(root.path()), None);
        assert_eq!(limit(tree(&[]).path()), None);
    }

    #[test]
    fn a_budget_near_the_limit_is_warned_of_with_the_remedy() {
        let limit = 256 << 20;
        assert_eq!(compare(230 << 20, limit), None);
        let warning = compare(231 << 20, limit).expect("it is above nine tenths");
        assert!(warning.contains("may use 256 MiB") && warning.contains("at most 230 MiB"), "{warning}");
    }
}
