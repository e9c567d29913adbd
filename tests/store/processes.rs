//! Several processes at one file: writers at once, a writer killed half-way, a disk that is full, a folder nobody may write.
//! The other processes are this test binary again, in the role that a variable names.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use longgen_runtime::store::{Store, StoreLocation};
use rusqlite::Connection;

use super::{ALL, choice, fill, found, kernel, key, open_quietly, place, tune_key};

const ROLE: &str = "LONGGEN_TEST_ROLE";
const FILE: &str = "LONGGEN_TEST_FILE";
const NUMBER: &str = "LONGGEN_TEST_NUMBER";

/// Plays the role that the environment asks for; nothing in a run of the tests.
#[test]
fn role() {
    let (Ok(role), Ok(file)) = (std::env::var(ROLE), std::env::var(FILE)) else { return };
    let number = std::env::var(NUMBER).ok().and_then(|number| number.parse().ok()).unwrap_or(0);
    match role.as_str() {
        "hold" => hold(Path::new(&file)),
        "write" => write(Path::new(&file), number),
        "put" => put(Path::new(&file)),
        other => panic!("no role {other}"),
    }
}

/// Half of a transaction, with pages already in the file, and then nothing more.
fn hold(file: &Path) {
    let raw = Connection::open(file).expect("the file");
    let change = "PRAGMA cache_size = 2; BEGIN IMMEDIATE; DELETE FROM tuned; UPDATE kernel SET image = zeroblob(30000)";
    raw.execute_batch(change).expect("half a transaction");
    println!("ready");
    std::thread::sleep(Duration::from_secs(600));
}

/// Ten kernels of its own, each read back.
fn write(file: &Path, number: usize) {
    let store = Store::open(StoreLocation::File(file.to_owned()));
    println!("ready");
    for index in (number * 10)..(number * 10 + 10) {
        store.put_kernel(&key(index), &kernel(index, 20_000));
        assert_eq!(store.kernel(&key(index)), Some(kernel(index, 20_000)));
    }
    store.take_notices().iter().for_each(|notice| println!("notice: {notice}"));
}

/// Everything of `fill`, and all of it there afterwards, wherever it is kept.
fn put(file: &Path) {
    let store = Store::open(StoreLocation::File(file.to_owned()));
    for number in 0..20 {
        store.put_kernel(&key(number), &kernel(number, 20_000));
    }
    store.put_tuned(&tune_key(1, 8192), &choice(1.0));
    assert_eq!(found(&store).0, 20);
    assert_eq!(store.tuned(&tune_key(1, 8192)), Some(choice(1.0)));
    store.take_notices().iter().for_each(|notice| println!("notice: {notice}"));
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

const ARGUMENTS: [&str; 3] = ["--exact", "processes::role", "--nocapture"];

fn this_binary() -> String {
    std::env::current_exe().expect("this binary").to_str().expect("a path in UTF-8").to_owned()
}

fn start(role: &str, file: &Path, number: usize) -> Child {
    let mut command = command(&this_binary());
    command.args(ARGUMENTS).env(ROLE, role).env(FILE, file).env(NUMBER, number.to_string());
    command.spawn().expect("this binary starts")
}

fn wait_until_ready(child: &mut Child) {
    let lines = BufReader::new(child.stdout.as_mut().expect("piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("ready")), "the other process ended");
}

/// What it printed with `notice: ` before it.
fn finish(child: Child) -> Vec<String> {
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    text.lines().filter_map(|line| line.split_once("notice: ")).map(|(_, notice)| notice.to_owned()).collect()
}

#[test]
fn a_writer_killed_half_way_leaves_nothing_half_done() {
    let (_folder, file) = place();
    fill(&file);
    let mut child = start("hold", &file, 0);
    wait_until_ready(&mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(file.with_extension("db-journal").exists(), "the transaction had begun");
    let store = open_quietly(&file);
    assert_eq!(found(&store), ALL);
    store.put_kernel(&key(77), &kernel(77, 100));
    assert_eq!(store.take_notices(), []);
}

#[test]
fn writers_killed_at_any_moment() {
    let (_folder, file) = place();
    for round in 0..12 {
        let mut child = start("write", &file, round);
        wait_until_ready(&mut child);
        std::thread::sleep(Duration::from_millis(3 * round as u64));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let store = open_quietly(&file);
    for number in 0..120 {
        assert!(store.kernel(&key(number)).is_none_or(|kept| kept == kernel(number, 20_000)));
    }
    assert_eq!(store.take_notices(), []);
}

#[test]
fn writers_at_once() {
    let (_folder, file) = place();
    let writers: Vec<Child> = (0..6).map(|number| start("write", &file, number)).collect();
    for writer in writers {
        assert_eq!(finish(writer), [""; 0]);
    }
    assert_eq!(open_quietly(&file).kernels().len(), 60);
}

#[test]
fn one_of_many_repairs_the_file() {
    let (_folder, file) = place();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, b"garbage".repeat(1000)).unwrap();
    let writers: Vec<Child> = (0..6).map(|number| start("write", &file, number)).collect();
    let notices: Vec<String> = writers.into_iter().flat_map(finish).collect();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("set aside"), "{notices:?}");
    assert_eq!(open_quietly(&file).kernels().len(), 60, "nobody's work was set aside");
}

/// No file above 100 KiB, as on a full disk: the writes fail, and the program is told and not killed.
#[test]
fn no_room() {
    let (_folder, file) = place();
    let script = format!("ulimit -f 200; trap '' XFSZ; exec {} {}", this_binary(), ARGUMENTS.join(" "));
    let child = command("sh").args(["-c", &script]).env(ROLE, "put").env(FILE, &file).spawn().unwrap();
    let notices = finish(child);
    assert_eq!(notices.len(), 1, "said once: {notices:?}");
    assert!(notices[0].contains("was not kept"), "{notices:?}");
    let store = open_quietly(&file);
    let kept = found(&store).0;
    assert!((1..20).contains(&kept), "{kept} kernels fit");
    drop(store);
    fill(&file);
    assert_eq!(found(&open_quietly(&file)), ALL, "with room again, all is well");
}

/// Runs a role after mounting what `mount` says at a folder; `None` where nobody may mount.
fn mounted(folder: &Path, mount: &str, role: &str) -> Option<Vec<String>> {
    let script = format!(
        "{mount} && echo mounted && {ROLE}={role} {FILE}={}/longgen.db {} {}",
        folder.display(),
        this_binary(),
        ARGUMENTS.join(" ")
    );
    let run = Command::new("unshare").args(["--mount", "--map-root-user", "sh", "-c", &script]).output();
    let Ok(run) = run else { return None };
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    if !text.contains("mounted") {
        return None;
    }
    assert!(run.status.success(), "{text}{}", String::from_utf8_lossy(&run.stderr));
    Some(text.lines().filter_map(|line| line.split_once("notice: ")).map(|(_, n)| n.to_owned()).collect())
}

#[test]
fn a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    for (kib, word) in [(200, "was not kept"), (8, "cannot be opened")] {
        let mount = format!("mount -t tmpfs -o size={kib}k none {}", folder.path().display());
        let Some(notices) = mounted(folder.path(), &mount, "put") else {
            return eprintln!("skipped: this machine lets nobody mount");
        };
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert!(notices[0].contains(word) && notices[0].contains("full"), "{notices:?}");
    }
}

#[test]
fn a_home_that_cannot_be_written() {
    let (_folder, file) = place();
    let folder = file.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    let mount = format!("mount --bind {0} {0} && mount -o remount,bind,ro {0}", folder.display());
    let Some(notices) = mounted(folder, &mount, "put") else {
        return eprintln!("skipped: this machine lets nobody mount");
    };
    assert!(matches!(&notices[..], [one] if one.contains("in memory only")), "{notices:?}");
    fill(&file);
    let before = std::fs::read(&file).unwrap();
    let notices = mounted(folder, &mount, "put").expect("as before");
    assert!(matches!(&notices[..], [one] if one.contains("cannot be written")), "{notices:?}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}
