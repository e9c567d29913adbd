//! Whatever the file is or becomes, the store works, says so once, and the next start finds a sound file.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use longgen_runtime::store::{Store, StoreLocation, StoreNotice};
use rusqlite::Connection;

use super::{ALL, choice, fill, found, kernel, key, open, open_quietly, place, tune_key};

/// Opens an unusable file: it is set aside with one notice, the new one works, and the next start has nothing to say.
fn is_set_aside(file: &Path, reason: &str) -> (usize, usize, usize) {
    let (store, notices) = open(file);
    let [StoreNotice::SetAside { aside, reason: found_reason, kept, .. }] = &notices[..] else {
        panic!("{notices:?}")
    };
    assert!(found_reason.contains(reason), "{found_reason}");
    assert!(aside.exists());
    let counts = found(&store);
    assert_eq!(*kept, counts.0 + counts.1 + counts.2);
    store.put_kernel(&key(77), &kernel(77, 100));
    drop(store);
    assert_eq!(open_quietly(file).kernel(&key(77)), Some(kernel(77, 100)));
    counts
}

#[test]
fn garbage() {
    let (_folder, file) = place();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    for bytes in [b"garbage".repeat(1000), vec![0; 5000], b"SQLite format 3\0".to_vec()] {
        fs::write(&file, &bytes).unwrap();
        assert_eq!(is_set_aside(&file, "damaged"), (0, 0, 0));
        assert_eq!(fs::read(file.with_extension("db.set-aside")).unwrap(), bytes, "nothing is destroyed");
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn an_empty_file_is_a_new_one() {
    let (_folder, file) = place();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "").unwrap();
    fill(&file);
    assert_eq!(found(&open_quietly(&file)), ALL);
}

#[test]
fn a_truncated_file_is_replaced_wherever_it_was_cut() {
    let (_folder, file) = place();
    fill(&file);
    let whole = fs::read(&file).unwrap();
    for percent in [1, 20, 50, 80, 99] {
        fs::write(&file, &whole[..whole.len() * percent / 100]).unwrap();
        let (kernels, ..) = is_set_aside(&file, "damaged");
        // They are nearly all of the file, and what lies before the cut is whole; but the way to them is not in the first pages.
        assert!(
            percent < 50 || kernels + 2 >= 20 * percent / 100,
            "{kernels} kernels of {percent} % of the file"
        );
    }
}

#[test]
fn damage_while_the_store_is_open_is_repaired() {
    let (_folder, file) = place();
    fill(&file);
    let store = open_quietly(&file);
    fs::write(&file, b"garbage".repeat(5000)).unwrap();
    store.put_kernel(&key(5), &kernel(5, 20_000));
    assert_eq!(store.kernel(&key(5)), Some(kernel(5, 20_000)));
    let notices = store.take_notices();
    assert!(matches!(notices[..], [StoreNotice::SetAside { .. }]), "{notices:?}");
    assert_eq!(found(&open_quietly(&file)).0, 1);
}

/// One makes the new file while the others look what it is.
#[test]
fn openers_at_once_agree_on_the_new_file() {
    let (_folder, file) = place();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    for _ in 0..100 {
        fs::write(&file, b"garbage".repeat(100)).unwrap();
        let notices: Vec<StoreNotice> = thread::scope(|scope| {
            let openers: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&file).1)).collect();
            openers.into_iter().flat_map(|opener| opener.join().unwrap()).collect()
        });
        assert!(matches!(notices[..], [StoreNotice::SetAside { .. }]), "{notices:?}");
    }
}

#[test]
fn overwritten_pages_lose_their_entries_and_no_others() {
    let (_folder, file) = place();
    fill(&file);
    let whole = fs::read(&file).unwrap();
    let mut survivors = 0;
    let pages: Vec<usize> = (1..whole.len() / 4096).step_by(3).collect();
    for &page in &pages {
        let mut bytes = whole.clone();
        bytes[page * 4096..][..4096].fill(0xa5);
        fs::write(&file, &bytes).unwrap();
        let store = Store::open(StoreLocation::File(file.clone()));
        // Wrong entries would fail in `found`; it may notice the damage now or never, as the page is read or not.
        let counts = found(&store);
        survivors += counts.0 + counts.1 + counts.2;
        store.put_kernel(&key(77), &kernel(77, 100));
        assert_eq!(store.kernel(&key(77)), Some(kernel(77, 100)), "page {page}");
        let _ = fs::remove_file(file.with_extension("db.set-aside"));
    }
    assert!(survivors > pages.len() * 20, "{survivors} entries of {} files of 30", pages.len());
}

#[test]
fn a_changed_byte_costs_its_entry_only() {
    let (_folder, file) = place();
    fill(&file);
    let mut bytes = fs::read(&file).unwrap();
    let image = kernel(3, 20_000).image;
    let position = bytes.windows(64).position(|window| window == &image[..64]).expect("the image");
    bytes[position + 10] ^= 1;
    fs::write(&file, bytes).unwrap();
    let store = open_quietly(&file);
    assert_eq!(found(&store), (19, 5, 5));
    assert_eq!(found(&store), (19, 5, 5));
    assert!(matches!(store.take_notices()[..], [StoreNotice::Damaged { .. }]), "said once");
    assert_eq!(found(&open_quietly(&file)), (19, 5, 5), "and removed");
}

#[test]
fn a_changed_choice_is_no_choice() {
    let (_folder, file) = place();
    fill(&file);
    let raw = Connection::open(&file).unwrap();
    raw.execute("UPDATE tuned SET choice = replace(choice, 'tile_m=128', 'tile_m=512') WHERE made > 0", [])
        .unwrap();
    drop(raw);
    let store = open_quietly(&file);
    assert_eq!(store.tuned(&tune_key(1, 8192)), None);
    assert_eq!(store.tuned_buckets(&tune_key(2, 8192).problem), []);
    assert!(matches!(store.take_notices()[..], [StoreNotice::Damaged { .. }]));
    store.put_tuned(&tune_key(1, 8192), &choice(4.0));
    assert_eq!(store.tuned(&tune_key(1, 8192)), Some(choice(4.0)));
}

#[test]
fn an_older_layout_is_carried_over() {
    let (_folder, file) = place();
    fill(&file);
    let raw = Connection::open(&file).unwrap();
    // A version that had no measurements yet.
    raw.execute_batch("PRAGMA user_version = 0; DROP TABLE trial; DROP TABLE compiler").unwrap();
    drop(raw);
    assert_eq!(is_set_aside(&file, "older layout"), (20, 5, 0));
}

/// Takes a member out of the JSON of each row's column, with the checksum that goes with it.
fn without(raw: &Connection, (table, column): (&str, &str), member: &str) {
    let value = if table == "tuned" { "choice" } else { "trial" };
    let [problem, value] = ["problem", value].map(|name| match name == column {
        true => format!("json_remove({name}, '$.{member}')"),
        false => name.to_owned(),
    });
    let mut rows =
        raw.prepare(&format!("SELECT rowid, {problem}, bucket, {value}, {column} FROM {table}")).unwrap();
    let rows =
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)));
    for row in rows.unwrap().collect::<Vec<rusqlite::Result<(i64, String, i64, String, String)>>>() {
        let (id, problem, bucket, value, before) = row.unwrap();
        let mut sum = blake3::Hasher::new();
        for part in [problem.as_bytes(), &bucket.to_le_bytes(), value.as_bytes()] {
            sum.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let now = if column == "problem" { problem } else { value };
        assert_ne!(now, before, "`{member}` was there");
        let update = format!("UPDATE {table} SET {column} = ?2, checksum = ?3 WHERE rowid = ?1");
        raw.execute(&update, rusqlite::params![id, now, sum.finalize().as_bytes()]).unwrap();
    }
}

/// Before layout 2 the key of a tuning result did not tell how many query heads a KV head has: such a result fits no call.
#[test]
fn of_the_first_layout_kernels_are_carried_over() {
    let (_folder, file) = place();
    fill(&file);
    let raw = Connection::open(&file).unwrap();
    without(&raw, ("tuned", "problem"), "group");
    without(&raw, ("trial", "problem"), "group");
    raw.execute_batch("PRAGMA user_version = 1").unwrap();
    drop(raw);
    assert_eq!(is_set_aside(&file, "older layout"), (20, 0, 0));
    assert_eq!(open_quietly(&file).tuned_rows(), []);
}

/// Before layout 3 a measurement did not tell at which length and with how many heads it was made: it compares with none.
#[test]
fn of_the_second_layout_measurements_are_left_behind() {
    let (_folder, file) = place();
    fill(&file);
    let raw = Connection::open(&file).unwrap();
    without(&raw, ("trial", "trial"), "problem");
    raw.execute_batch("PRAGMA user_version = 2").unwrap();
    drop(raw);
    assert_eq!(is_set_aside(&file, "older layout"), (20, 5, 0));
}

#[test]
fn a_newer_layout_is_left_alone() {
    let (_folder, file) = place();
    fill(&file);
    Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 999").unwrap();
    let before = fs::read(&file).unwrap();
    let (store, notices) = open(&file);
    assert!(matches!(notices[..], [StoreNotice::Newer { found: 999, .. }]), "{notices:?}");
    store.put_kernel(&key(1), &kernel(1, 10));
    assert_eq!(store.kernel(&key(1)), Some(kernel(1, 10)), "kept in memory");
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn another_programs_database_is_set_aside() {
    let (_folder, file) = place();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    Connection::open(&file)
        .unwrap()
        .execute_batch("CREATE TABLE kernel (x); PRAGMA user_version = 1")
        .unwrap();
    is_set_aside(&file, "no store of this program");
}

#[test]
fn missing_tables_are_damage() {
    let (_folder, file) = place();
    fill(&file);
    Connection::open(&file).unwrap().execute_batch("DROP TABLE kernel").unwrap();
    assert_eq!(is_set_aside(&file, "no such table"), (0, 5, 5));
}

#[test]
fn no_place_for_a_file() {
    for path in ["/proc/longgen/longgen.db", "/dev/null/longgen.db", "/"] {
        let (store, notices) = open(&PathBuf::from(path));
        let [StoreNotice::Unavailable { .. }] = &notices[..] else { panic!("{path}: {notices:?}") };
        store.put_kernel(&key(1), &kernel(1, 10));
        store.put_tuned(&tune_key(1, 1), &choice(1.0));
        assert_eq!(store.kernel(&key(1)), Some(kernel(1, 10)));
        assert_eq!(store.tuned(&tune_key(1, 1)), Some(choice(1.0)));
        assert_eq!(store.take_notices(), [], "said once");
    }
}
