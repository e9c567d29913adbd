//! Decoded instructions: what a warp executes.

/// One instruction, where it stands in the source, and under which condition a lane takes part.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Which lanes.
    pub guard: Guard,
    /// What they do.
    pub op: Op,
    /// (file number, line) of the CUDA source; (0, line of the PTX) where that is not known.
    pub source: (u32, u32),
}

/// A condition on the predicate registers of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// All lanes.
    Always,
    /// Lanes whose predicate register holds this value.
    If(u32, bool),
}

/// A type of scalars. Bits that are not interpreted count as unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Type {
    /// Size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Type::U8 | Type::S8 => 1,
            Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::U32 | Type::S32 | Type::F32 => 4,
            Type::U64 | Type::S64 | Type::F64 => 8,
        }
    }

    /// Whether it is a signed integer.
    pub fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }
}

/// What the hardware knows of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    ThreadX,
    Zero,
    BlockThreads,
    One,
    Block(usize),
    Grid(usize),
    Lane,
    Warp,
    Clock,
}

/// Something that is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A register of up to 32 bits, by its first word.
    Word(u32),
    /// A register of 64 bits, by its first word.
    Wide(u32),
    /// A predicate.
    Predicate(u32),
    /// A constant.
    Constant(u64),
    /// A number of the hardware's.
    Special(Special),
    /// `_`: written to nowhere.
    Nowhere,
}

/// A state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Parameter,
}

/// `[base + offset]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub base: Operand,
    pub offset: i64,
}

/// An address in a known space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub space: Space,
    pub address: Address,
}

/// Operations on scalars whose result has the type of their operands, unless said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alu {
    Move,
    Add,
    Sub,
    Multiply,
    /// The upper half of a product.
    MultiplyHigh,
    /// A product of twice the width; the type is that of the factors.
    MultiplyWide,
    MultiplyAdd,
    MultiplyWideAdd,
    Divide,
    Remainder,
    Min,
    Max,
    Negate,
    Absolute,
    Not,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
    Population,
    LeadingZeros,
    Reverse,
    /// Place of the highest bit; `true`: how far it would have to be shifted up.
    HighestBit(bool),
    /// The lowest bits of the first operand into the second.
    BitInsert {
        start: u8,
        length: u8,
    },
    BitExtract,
    Permute,
    /// Select by a predicate, the third operand.
    Select,
    /// Two values of half the width to one, the first below.
    Pack,
    Float(Float),
}

/// Functions of one float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    Exp2,
    Log2,
    Reciprocal,
    Root,
    ReciprocalRoot,
    Sine,
    Cosine,
}

/// How two values are compared. `unordered`: true, too, where one is a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal {
        unordered: bool,
    },
    NotEqual {
        unordered: bool,
    },
    Less {
        unordered: bool,
    },
    LessOrEqual {
        unordered: bool,
    },
    Greater {
        unordered: bool,
    },
    GreaterOrEqual {
        unordered: bool,
    },
    /// Neither is a NaN, or one is.
    Ordered(bool),
}

/// Which lanes' predicates must hold; or all of them as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    Any,
    All,
    Ballot,
}

/// Which 8 x 8 matrices of halves move between shared memory and a warp's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixMove {
    Load { transposed: bool },
    Store { transposed: bool },
}

/// Where the left operand of a warpgroup's product is.
#[derive(Clone, Debug, PartialEq)]
pub enum WgmmaA {
    Shared { descriptor: Operand, transposed: bool },
    Registers([Operand; 4]),
}

/// A copy from shared to global memory by the copy engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkCopy {
    pub to: Address,
    pub from: Address,
    pub bytes: Operand,
    /// Floats are added to what is there.
    pub adds: bool,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub enum Op {
    Alu {
        op: Alu,
        kind: Type,
        to: Operand,
        from: [Operand; 3],
    },
    Convert {
        to_kind: Type,
        from_kind: Type,
        rounding: Rounding,
        to: Operand,
        from: Operand,
    },
    /// Two f32 to two halves in a word; the first is the upper one.
    ConvertPair {
        half: Type,
        to: Operand,
        from: [Operand; 2],
    },
    Unpack {
        to: [Operand; 2],
        from: Operand,
    },
    /// `and`: a predicate (and whether it is negated) that must hold, too.
    Compare {
        comparison: Comparison,
        kind: Type,
        to: Operand,
        from: [Operand; 2],
        and: Option<(Operand, bool)>,
    },
    Logic {
        op: Alu,
        to: Operand,
        from: [Operand; 2],
    },
    Load {
        kind: Type,
        place: Place,
        to: Vec<Operand>,
    },
    Store {
        kind: Type,
        place: Place,
        from: Vec<Operand>,
    },
    Atomic {
        op: Atomic,
        kind: Type,
        place: Place,
        to: Option<Operand>,
        from: Vec<Operand>,
    },
    Branch(u32),
    Exit,
    WarpSync {
        members: Operand,
    },
    Shuffle {
        mode: Shuffle,
        to: Operand,
        valid: Operand,
        from: [Operand; 4],
    },
    Vote {
        vote: Vote,
        to: Operand,
        from: Operand,
        negated: bool,
        members: Operand,
    },
    Barrier {
        id: Operand,
        threads: Option<Operand>,
        waits: bool,
    },
    /// A barrier of all threads that reduces a predicate.
    BarrierReduce {
        any: bool,
        to: Operand,
        id: Operand,
        from: Operand,
        negated: bool,
    },
    Matrices {
        direction: MatrixMove,
        registers: Vec<Operand>,
        address: Address,
    },
    Mma {
        half: Type,
        sums: [Operand; 4],
        a: [Operand; 4],
        b: [Operand; 2],
        c: [Operand; 4],
    },
    CopyAsync {
        to: Address,
        from: Address,
        bytes: usize,
        valid: Operand,
    },
    CopyCommit,
    CopyWait {
        pending: u64,
    },
    BarrierInit {
        barrier: Address,
        arrivals: Operand,
    },
    BarrierArrive {
        barrier: Address,
        bytes: Option<Operand>,
    },
    BarrierTest {
        to: Operand,
        barrier: Address,
        parity: Operand,
    },
    TensorLoad {
        to: Address,
        map: Address,
        coordinates: [Operand; 3],
        barrier: Address,
    },
    Bulk(BulkCopy),
    BulkCommit,
    /// `read`: until the sources are read, not until all is done.
    BulkWait {
        pending: u64,
        read: bool,
    },
    FenceAsyncProxy,
    Wgmma {
        half: Type,
        n: u32,
        sums: Vec<Operand>,
        a: WgmmaA,
        b: Operand,
        b_transposed: bool,
        adds: Operand,
    },
    WgmmaCommit,
    WgmmaWait {
        pending: u64,
    },
    /// Something all lanes of a warp do together that means nothing here: register counts, `wgmma.fence`.
    Together,
    /// Fences, hints and the order of kernels in a stream: nothing is reordered here, and kernels run one after the other.
    Nothing,
}

/// To an integer value before a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    None,
    Nearest,
    Zero,
    Down,
    Up,
}

/// What happens to a word in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomic {
    Add,
    Exchange,
    CompareAndSwap,
    Min,
    Max,
    And,
    Or,
}

/// Whose value a lane gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}
