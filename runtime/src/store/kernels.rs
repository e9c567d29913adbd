//! Compiled kernels, and which NVRTC was found last.

use std::path::Path;
use std::time::UNIX_EPOCH;

use longgen_codegen::artifact::{CompiledKernel, Manifest};
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::cuda::nvrtc::CompileOptions;
use longgen_codegen::cuda::source::CudaSource;
use rusqlite::{Connection, OptionalExtension, Row, params};

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
    /// How to launch it, and what it computes.
    pub manifest: Manifest,
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

    fn new(key: &KernelKey, kernel: &CompiledKernel) -> Self {
        let (manifest, image) = (kernel.manifest.to_json(), kernel.image.clone());
        let checksum = checksum(&[manifest.as_bytes(), &image]).to_vec();
        RawKernel { key: key.clone(), made: now(), manifest, image, checksum }
    }

    /// The kernel, if the row is as it was written.
    pub fn decode(&self) -> Option<CompiledKernel> {
        let whole = checksum(&[self.manifest.as_bytes(), &self.image])[..] == self.checksum[..];
        let manifest = whole.then(|| Manifest::from_json(&self.manifest).ok()).flatten()?;
        Some(CompiledKernel { image: self.image.clone(), manifest })
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
        let sql = format!("SELECT {COLUMNS} WHERE source = ?1 AND nvrtc = ?2");
        self.decoded(&sql, &[&key.source, &key.nvrtc])
    }

    /// The latest kernel made of this source by any version of NVRTC.
    pub fn kernel_of_any_compiler(&self, source: &str) -> Option<CompiledKernel> {
        let sql = format!("SELECT {COLUMNS} WHERE source = ?1 ORDER BY made DESC LIMIT 1");
        self.decoded(&sql, &[source])
    }

    fn decoded(&self, sql: &str, values: &[&str]) -> Option<CompiledKernel> {
        let raw = self.read(|connection| {
            let mut statement = connection.prepare(sql)?;
            statement.query_row(rusqlite::params_from_iter(values), RawKernel::from_row).optional()
        })?;
        let kernel = raw.decode();
        if kernel.is_none() {
            let KernelKey { source, nvrtc } = &raw.key;
            let sql = "DELETE FROM kernel WHERE source = ?1 AND nvrtc = ?2";
            self.write(|connection| connection.execute(sql, [source, nvrtc]));
            self.tell_damaged();
        }
        kernel
    }

    /// Keeps a kernel, in place of an older one with this key.
    pub fn put_kernel(&self, key: &KernelKey, kernel: &CompiledKernel) {
        let raw = RawKernel::new(key, kernel);
        self.write(|connection| raw.put(connection));
    }

    /// All kernels, latest first. A row whose manifest does not parse is left out.
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
            let manifest = Manifest::from_json(&manifest).ok()?;
            Some(KernelRow { key, made, image_bytes: bytes.unsigned_abs(), manifest })
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
