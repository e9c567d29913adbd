//! Compiled kernels, and which NVRTC was found last.

use std::path::Path;
use std::time::UNIX_EPOCH;

use longgen_codegen::artifact::{CompiledKernel, Manifest};
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::cuda::nvrtc::CompileOptions;
use longgen_codegen::cuda::source::CudaSource;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::{Store, checksum, now};

/// What a kernel was made of. The source says pattern, pass, D, type, target, schedule and generator; compiled, it depends on no
/// device and no driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelKey {
    /// [`KernelKey::source_hash`].
    pub source: String,
    /// Version of NVRTC, `major.minor`.
    pub nvrtc: String,
}

impl KernelKey {
    /// 64 hexadecimal digits: blake3 of a source and the options it is compiled with.
    pub fn source_hash(source: &CudaSource, options: &CompileOptions) -> String {
        let arguments = options.arguments();
        let mut parts = vec![source.text.as_bytes()];
        parts.extend(arguments.iter().map(|argument| argument.as_bytes()));
        blake3::Hash::from_bytes(checksum(&parts)).to_hex().to_string()
    }
}

/// A kernel of the store, without its image.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelRow {
    /// What it was made of.
    pub key: KernelKey,
    /// When, in seconds since 1970.
    pub made: i64,
    /// Size of the image in bytes.
    pub image_bytes: u64,
    /// What it computes.
    pub about: KernelAbout,
}

/// What an image computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KernelAbout {
    /// Attention with some pattern, and how to launch it.
    Attention(Box<Manifest>),
    /// One of the operations around it, whose launches its caller knows.
    Operation(Operation),
}

/// An operation that is no attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Name of its source.
    pub name: String,
    /// Architecture.
    pub target: String,
    /// Name and version of the generator.
    pub generator: String,
}

impl KernelRow {
    /// Ten hexadecimal digits to name it by.
    pub fn id(&self) -> String {
        let parts = checksum(&[self.key.source.as_bytes(), self.key.nvrtc.as_bytes()]);
        blake3::Hash::from_bytes(parts).to_hex()[..10].to_owned()
    }
}

/// A row as it lies in the file.
pub(super) struct RawKernel {
    pub key: KernelKey,
    pub made: i64,
    /// JSON of [`KernelAbout`].
    pub manifest: String,
    pub image: Vec<u8>,
    pub checksum: Vec<u8>,
}

pub(super) const COLUMNS: &str = "source, nvrtc, made, manifest, image, checksum FROM kernel";

impl RawKernel {
    pub fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let key = KernelKey { source: row.get(0)?, nvrtc: row.get(1)? };
        let (made, manifest, image, checksum) = (row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?);
        Ok(RawKernel { key, made, manifest, image, checksum })
    }

    fn new(key: &KernelKey, manifest: String, image: Vec<u8>) -> Self {
        let checksum = checksum(&[manifest.as_bytes(), &image]).to_vec();
        RawKernel { key: key.clone(), made: now(), manifest, image, checksum }
    }

    /// Whether the row is as it was written.
    pub fn is_whole(&self) -> bool {
        checksum(&[self.manifest.as_bytes(), &self.image])[..] == self.checksum[..]
    }

    fn decode(self) -> Option<CompiledKernel> {
        let manifest = Manifest::from_json(&self.manifest).ok()?;
        Some(CompiledKernel { image: self.image, manifest })
    }

    fn put(&self, connection: &Connection) -> rusqlite::Result<usize> {
        let KernelKey { source, nvrtc } = &self.key;
        connection.execute(
            "INSERT OR REPLACE INTO kernel (source, nvrtc, made, manifest, image, checksum) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![source, nvrtc, self.made, self.manifest, self.image, self.checksum],
        )
    }

    /// Puts the row where there is none, or an earlier one. Returns the rows that changed: 0 or 1.
    pub fn merge(&self, connection: &Connection) -> rusqlite::Result<usize> {
        let KernelKey { source, nvrtc } = &self.key;
        let here = "SELECT 1 FROM kernel WHERE source = ?1 AND nvrtc = ?2 AND made >= ?3";
        let is_here = connection.prepare(here)?.exists(params![source, nvrtc, self.made])?;
        if is_here { Ok(0) } else { self.put(connection) }
    }
}

impl Store {
    /// A kernel, if it is there and whole.
    pub fn kernel(&self, key: &KernelKey) -> Option<CompiledKernel> {
        self.of_key(key)?.decode()
    }

    /// The image of an operation, if it is there and whole.
    pub fn operation(&self, key: &KernelKey) -> Option<Vec<u8>> {
        Some(self.of_key(key)?.image)
    }

    fn of_key(&self, key: &KernelKey) -> Option<RawKernel> {
        let sql = format!("SELECT {COLUMNS} WHERE source = ?1 AND nvrtc = ?2");
        self.whole(&sql, &[&key.source, &key.nvrtc])
    }

    /// The latest kernel made of this source by any version of NVRTC.
    pub fn kernel_of_any_compiler(&self, source: &str) -> Option<CompiledKernel> {
        self.of_source(source)?.decode()
    }

    /// The latest image of an operation made of this source by any version of NVRTC.
    pub fn operation_of_any_compiler(&self, source: &str) -> Option<Vec<u8>> {
        Some(self.of_source(source)?.image)
    }

    fn of_source(&self, source: &str) -> Option<RawKernel> {
        let sql = format!("SELECT {COLUMNS} WHERE source = ?1 ORDER BY made DESC LIMIT 1");
        self.whole(&sql, &[source])
    }

    /// A row, if it matches its checksum; one that does not is removed.
    fn whole(&self, sql: &str, values: &[&str]) -> Option<RawKernel> {
        let raw = self.read(|connection| {
            let mut statement = connection.prepare(sql)?;
            statement.query_row(rusqlite::params_from_iter(values), RawKernel::from_row).optional()
        })?;
        let is_whole = raw.is_whole();
        if !is_whole {
            let KernelKey { source, nvrtc } = &raw.key;
            let sql = "DELETE FROM kernel WHERE source = ?1 AND nvrtc = ?2";
            self.write(|connection| connection.execute(sql, [source, nvrtc]));
            self.tell_damaged();
        }
        is_whole.then_some(raw)
    }

    /// Keeps a kernel, in place of an older one with this key.
    pub fn put_kernel(&self, key: &KernelKey, kernel: &CompiledKernel) {
        self.put_raw(&RawKernel::new(key, kernel.manifest.to_json(), kernel.image.clone()));
    }

    /// Keeps the image of an operation, in place of an older one with this key.
    pub fn put_operation(&self, key: &KernelKey, about: &Operation, image: &[u8]) {
        // A plain struct of strings: nothing in it can fail to serialise.
        let about = serde_json::to_string(about).unwrap_or_default();
        self.put_raw(&RawKernel::new(key, about, image.to_vec()));
    }

    fn put_raw(&self, raw: &RawKernel) {
        self.write(|connection| raw.put(connection));
    }

    /// All kernels, latest first. A row that another version describes otherwise is left out.
    pub fn kernels(&self) -> Vec<KernelRow> {
        let sql =
            "SELECT source, nvrtc, made, length(image), manifest FROM kernel ORDER BY made DESC, source";
        let rows = self.read_all(|connection| {
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map([], |row| {
                let key = KernelKey { source: row.get(0)?, nvrtc: row.get(1)? };
                Ok((key, row.get(2)?, row.get::<_, i64>(3)?, row.get::<_, String>(4)?))
            })?;
            rows.collect()
        });
        let decoded = rows.into_iter().filter_map(|(key, made, bytes, manifest)| {
            let about = serde_json::from_str(&manifest).ok()?;
            Some(KernelRow { key, made, image_bytes: bytes.unsigned_abs(), about })
        });
        decoded.collect()
    }

    /// The version of the NVRTC that this search found last, while that library is still the same file: it spares a start the
    /// search and the loading of a large library.
    pub fn compiler(&self, search: &ToolSearch) -> Option<String> {
        let search = format!("{search:?}");
        let sql = "SELECT file, version FROM compiler WHERE search = ?1";
        let (file, version) = self.read(|connection| {
            let pair = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
            connection.prepare(sql)?.query_row([&search], pair).optional()
        })?;
        let path = file.split('\n').next()?;
        (identity(Path::new(path))? == file).then_some(version)
    }

    /// Remembers what a search found.
    pub fn put_compiler(&self, search: &ToolSearch, library: &Path, version: &str) {
        // A library that the system's loader found by its bare name has no path to look at.
        let Some(file) = identity(library) else { return };
        let search = format!("{search:?}");
        let sql = "INSERT OR REPLACE INTO compiler (search, file, version) VALUES (?1, ?2, ?3)";
        self.write(|connection| connection.execute(sql, params![search, file, version]));
    }
}

/// Path, size and time of change.
fn identity(library: &Path) -> Option<String> {
    let metadata = std::fs::metadata(library).ok()?;
    let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{}\n{}\n{}", library.to_str()?, metadata.len(), changed.as_nanos()))
}
