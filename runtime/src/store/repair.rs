//! Puts a new file in the place of an unusable one, and carries over what can still be read.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::connect::{self, Attempt, Opened};
use super::exchange;
use super::notice::StoreNotice;

/// What an unusable file is called afterwards. One is kept, the latest: the next one takes its name.
fn aside(path: &Path) -> PathBuf {
    suffixed(path, ".set-aside")
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Sets the file aside, makes a new one and fills it with the entries of the old one that are whole. Several processes may
/// find the same file unusable: one of them does the work, under a lock, and the others take the new one.
pub fn replace(path: &Path, why: &str) -> Opened {
    let unavailable = |reason| Opened::nothing(StoreNotice::Unavailable { path: path.to_owned(), reason });
    // A lock on the folder, since closing a second handle of the file would end SQLite's own locks on it. It is given up when
    // the handle is closed; where folders cannot be locked, the work is done without.
    let folder = path.parent().and_then(|folder| File::open(folder).ok());
    let _ = folder.as_ref().map(File::lock);
    match connect::attempt(path) {
        // Another process was quicker.
        Ok(Attempt::Ready(connection)) => return Opened { connection: Some(connection), notices: vec![] },
        Ok(Attempt::Newer(found)) => {
            return Opened::nothing(StoreNotice::Newer { path: path.to_owned(), found });
        }
        Ok(Attempt::Broken(_)) => {}
        Err(error) => return unavailable(connect::reason(&error)),
    }
    let aside = aside(path);
    if let Err(error) = set_aside(path, &aside) {
        return unavailable(format!("it {why}, and cannot be set aside: {error}"));
    }
    let mut connection = match connect::attempt(path) {
        Ok(Attempt::Ready(connection)) => connection,
        Ok(Attempt::Broken(reason)) => return unavailable(reason),
        Ok(Attempt::Newer(_)) => return unavailable("another version made it meanwhile".to_owned()),
        Err(error) => return unavailable(connect::reason(&error)),
    };
    let kept = exchange::copy_rows(&aside, &mut connection).map_or(0, |copied| copied.total());
    let notice = StoreNotice::SetAside { path: path.to_owned(), aside, reason: why.to_owned(), kept };
    Opened { connection: Some(connection), notices: vec![notice] }
}

/// The journal goes first: beside a new file it would be taken for that file's own.
fn set_aside(path: &Path, aside: &Path) -> std::io::Result<()> {
    const JOURNAL: &str = "-journal";
    match fs::rename(suffixed(path, JOURNAL), suffixed(aside, JOURNAL)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Err(_) => {
            // No journal. One of an earlier file would belong to the wrong one.
            let _ = fs::remove_file(suffixed(aside, JOURNAL));
        }
        Ok(()) => {}
    }
    fs::rename(path, aside)
}
