//! Where everything lies in a file: the numbers of `docs/bundle.md`, which `templates/c/longgen.h` has as structs.

/// As PNG's: a byte that is no text, the name, and line ends that a copy as text would change.
pub const MAGIC: [u8; 8] = *b"\x89LGK\r\n\x1a\n";
/// Raised when any number below changes.
pub const VERSION: u32 = 1;

/// Bytes of the header.
pub const HEADER: usize = 88;
/// Bytes of the header that its checksum covers.
pub const HEADER_SUMMED: usize = 84;
/// Bytes of a record.
pub const RECORD: usize = 424;
/// Bytes of a reference to a part: offset, length, checksum.
pub const SPAN: usize = 24;
/// Arguments that a record has room for.
pub const ARGUMENTS: usize = 6;
/// Parts begin at multiples of this.
pub const ALIGNMENT: usize = 16;

/// Bytes in the header where numbers lie.
pub mod header {
    /// Version of the format.
    pub const VERSION: usize = 8;
    /// Number of records.
    pub const RECORDS: usize = 12;
    /// Size of the file.
    pub const FILE_BYTES: usize = 16;
    /// The JSON of `BundleInfo`.
    pub const INFO: usize = 24;
    /// The C header.
    pub const C_HEADER: usize = 48;
    /// Checksum of all records.
    pub const INDEX_SUM: usize = 72;
    /// Checksum of the declaration of the parameter struct.
    pub const PARAMS_SUM: usize = 76;
    /// Checksum of the header before it.
    pub const HEADER_SUM: usize = 84;
}

/// Bytes in a record that reading needs; writing goes through all fields in order.
pub mod record {
    /// Label of the pattern.
    pub const PATTERN: usize = 64;
    /// 1 for PTX.
    pub const IS_PTX: usize = 188;
    /// Number of the entry point within its source.
    pub const STEP: usize = 208;
    /// The image.
    pub const IMAGE: usize = 376;
    /// The manifest.
    pub const MANIFEST: usize = 400;
}
