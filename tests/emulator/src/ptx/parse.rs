//! Modules, kernels and statements; what a statement does is `decode`'s matter.

use std::collections::HashMap;

use super::decode::{Statement, decode};
use super::names::Names;
use super::text::{Token, tokens};
use super::{Entry, Guard, Instruction, Module, Op, Operand, PtxError};

/// Where the variables of a module lie among the addresses that kernels see.
pub const GLOBALS_BASE: u64 = 0x7000_0000_0000_0000;

/// Where static shared memory lies among shared addresses: past all that dynamic one, which begins at 0, can be.
pub const STATIC_SMEM_BASE: u32 = 0x4_0000;

/// Reads a module.
///
/// # Errors
/// [`PtxError`] for text that is no PTX, or an instruction that the emulator does not know.
pub fn parse(text: &str) -> Result<Module, PtxError> {
    let tokens = tokens(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        module: Module::default(),
        globals: HashMap::new(),
        files: Vec::new(),
        static_smem_bytes: 0,
    };
    while parser.at < tokens.len() {
        parser.item()?;
    }
    let Parser { mut module, files, .. } = parser;
    for entry in &mut module.entries {
        entry.files.clone_from(&files);
    }
    Ok(module)
}

struct Parser<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    module: Module,
    /// Variables of the module and their addresses.
    globals: HashMap<String, u64>,
    files: Vec<(u32, String)>,
    /// Of the shared variables that all kernels of the module may use.
    static_smem_bytes: u32,
}

/// A variable's declaration.
struct Variable {
    name: String,
    bytes: usize,
    /// Of an element.
    size: usize,
    align: usize,
}

impl Variable {
    /// The address of a shared variable that follows `used` bytes of others.
    fn place(&self, used: &mut u32) -> u64 {
        let start = (*used as usize).next_multiple_of(self.align);
        *used = (start + self.bytes) as u32;
        u64::from(STATIC_SMEM_BASE) + start as u64
    }
}

impl<'a> Parser<'a> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, PtxError> {
        let line =
            self.tokens.get(self.at.min(self.tokens.len().saturating_sub(1))).map_or(0, |token| token.line);
        Err(PtxError { line, message: message.into() })
    }

    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).map_or("", |token| token.text)
    }

    fn next(&mut self) -> &'a str {
        let text = self.peek();
        self.at += 1;
        text
    }

    fn accept(&mut self, text: &str) -> bool {
        let found = self.peek() == text;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), PtxError> {
        if self.accept(text) {
            Ok(())
        } else {
            self.error(format!("`{text}` expected, `{}` found", self.peek()))
        }
    }

    fn number(&mut self) -> Result<usize, PtxError> {
        let text = self.next();
        text.parse().or_else(|_| self.error(format!("a number expected, `{text}` found")))
    }

    fn skip_past(&mut self, end: &str) {
        while self.at < self.tokens.len() && self.next() != end {}
    }

    /// One item of a module.
    fn item(&mut self) -> Result<(), PtxError> {
        match self.next() {
            ".version" | ".target" | ".address_size" => {
                let line = self.tokens[self.at - 1].line;
                while self.tokens.get(self.at).is_some_and(|token| token.line == line) {
                    self.at += 1;
                }
            }
            ".file" => {
                let number = self.number()? as u32;
                let name = self.next().trim_matches('"').to_owned();
                self.files.push((number, name));
                while self.accept(",") {
                    self.at += 1;
                }
            }
            ".visible" | ".weak" => {}
            // Dynamic shared memory.
            ".extern" => {
                self.expect(".shared")?;
                let variable = self.variable()?;
                self.globals.insert(variable.name, 0);
                self.expect(";")?;
            }
            ".section" => self.skip_past("}"),
            ".global" | ".const" => self.global()?,
            ".shared" => {
                let variable = self.variable()?;
                let address = variable.place(&mut self.static_smem_bytes);
                self.globals.insert(variable.name, address);
                self.expect(";")?;
            }
            ".entry" => self.entry()?,
            other => return self.error(format!("`{other}` is not known here")),
        }
        Ok(())
    }

    /// `.align 4 .b8 name[12]`, after the space.
    fn variable(&mut self) -> Result<Variable, PtxError> {
        let (mut align, mut size) = (1, None);
        loop {
            match self.next() {
                ".align" => align = self.number()?,
                ".ptr" | ".global" | ".shared" | ".local" | ".const" => {}
                kind if kind.starts_with('.') => size = bytes_of(kind),
                name => {
                    let Some(size) = size else { return self.error(format!("`{name}` has no known type")) };
                    let mut count = 1;
                    while self.accept("[") {
                        count *= if self.peek() == "]" { 0 } else { self.number()? };
                        self.expect("]")?;
                    }
                    return Ok(Variable {
                        name: name.to_owned(),
                        bytes: size * count,
                        size,
                        align: align.max(size),
                    });
                }
            }
        }
    }

    fn global(&mut self) -> Result<(), PtxError> {
        let variable = self.variable()?;
        let start = self.module.globals.len().next_multiple_of(variable.align);
        self.module.globals.resize(start + variable.bytes, 0);
        if self.accept("=") {
            let several = self.accept("{");
            let size = variable.size;
            let mut place = start;
            loop {
                let sign = if self.accept("-") { "-" } else { "" };
                let word = format!("{sign}{}", self.next());
                let Some(Operand::Constant(value)) = Names::default().operand(&word) else {
                    return self.error(format!("`{word}` is no constant"));
                };
                let end = place + size;
                if end > self.module.globals.len() || size > 8 {
                    return self.error("more initial values than there is room");
                }
                self.module.globals[place..end].copy_from_slice(&value.to_le_bytes()[..size]);
                place = end;
                if !(several && self.accept(",")) {
                    break;
                }
            }
            if several {
                self.expect("}")?;
            }
        }
        self.globals.insert(variable.name, GLOBALS_BASE + start as u64);
        self.expect(";")
    }

    fn entry(&mut self) -> Result<(), PtxError> {
        let name = self.next().to_owned();
        let mut entry = Entry { name, static_smem_bytes: self.static_smem_bytes, ..Entry::default() };
        let mut names = Names::default();
        for (name, &address) in &self.globals {
            names.variable(name, address);
        }
        self.parameters(&mut entry, &mut names)?;
        while self.peek() != "{" {
            match self.next() {
                ".maxntid" => entry.max_threads = Some(self.number()? as u32),
                "" => return self.error("a kernel without a body"),
                _ => {}
            }
        }
        Body { parser: self, names, labels: HashMap::new(), branches: Vec::new(), source: None }
            .read(&mut entry)?;
        self.module.entries.push(entry);
        Ok(())
    }

    fn parameters(&mut self, entry: &mut Entry, names: &mut Names) -> Result<(), PtxError> {
        if !self.accept("(") || self.accept(")") {
            return Ok(());
        }
        while self.accept(".param") {
            let variable = self.variable()?;
            let offset = entry.parameter_bytes.next_multiple_of(variable.align);
            entry.parameters.push((offset, variable.bytes));
            entry.parameter_bytes = offset + variable.bytes;
            names.variable(&variable.name, offset as u64);
            self.accept(",");
        }
        self.expect(")")
    }
}

/// The body of a kernel.
struct Body<'p, 'a> {
    parser: &'p mut Parser<'a>,
    names: Names,
    /// Places of labels, which are unique over all of a kernel.
    labels: HashMap<&'a str, u32>,
    /// Instructions that branch to a label not seen yet.
    branches: Vec<(usize, &'a str)>,
    source: Option<(u32, u32)>,
}

impl<'a> Body<'_, 'a> {
    fn read(mut self, entry: &mut Entry) -> Result<(), PtxError> {
        loop {
            match self.parser.peek() {
                "" => return self.parser.error("a kernel without an end"),
                "{" => {
                    self.parser.at += 1;
                    self.names.enter();
                }
                "}" => {
                    self.parser.at += 1;
                    if !self.names.leave() {
                        break;
                    }
                }
                word if word.starts_with('.') => self.directive(entry)?,
                label if self.parser.tokens.get(self.parser.at + 1).is_some_and(|next| next.text == ":") => {
                    self.labels.insert(label, entry.code.len() as u32);
                    self.parser.at += 2;
                }
                _ => self.statement(entry)?,
            }
        }
        // Whoever falls off the end is done.
        entry.code.push(Instruction { guard: Guard::Always, op: Op::Exit, source: (0, 0) });
        for (at, label) in &self.branches {
            let Some(&target) = self.labels.get(label) else {
                return self.parser.error(format!("there is no label `{label}`"));
            };
            entry.code[*at].op = Op::Branch(target);
        }
        entry.words = self.names.words;
        entry.predicates = self.names.predicates;
        Ok(())
    }

    fn directive(&mut self, entry: &mut Entry) -> Result<(), PtxError> {
        match self.parser.next() {
            ".reg" => self.registers()?,
            ".loc" => {
                let file = self.parser.number()? as u32;
                let line = self.parser.number()? as u32;
                self.source = Some((file, line));
                self.parser.number()?;
                // `, function_name $L__info, inlined_at 1 20 3`: the line of the inlined code itself is what is kept.
                if self.parser.accept(",") {
                    while !matches!(self.parser.next(), "inlined_at" | "") {}
                    for _ in 0..3 {
                        self.parser.number()?;
                    }
                }
            }
            ".pragma" => self.parser.skip_past(";"),
            ".shared" => {
                let variable = self.parser.variable()?;
                let address = variable.place(&mut entry.static_smem_bytes);
                self.names.variable(&variable.name, address);
                self.parser.expect(";")?;
            }
            ".local" => {
                let variable = self.parser.variable()?;
                let start = (entry.local_bytes as usize).next_multiple_of(variable.align);
                self.names.variable(&variable.name, start as u64);
                entry.local_bytes = (start + variable.bytes) as u32;
                self.parser.expect(";")?;
            }
            other => return self.parser.error(format!("`{other}` is not known here")),
        }
        Ok(())
    }

    /// `.reg .b32 %r<10>;` and `.reg .b32 a, b;`
    fn registers(&mut self) -> Result<(), PtxError> {
        let kind = self.parser.next();
        loop {
            let name = self.parser.next();
            let count = if self.parser.accept("<") {
                let count = self.parser.number()? as u32;
                self.parser.expect(">")?;
                Some(count)
            } else {
                None
            };
            if !self.names.register(kind, name, count) {
                return self.parser.error(format!("registers of type `{kind}` are not known here"));
            }
            if !self.parser.accept(",") {
                return self.parser.expect(";");
            }
        }
    }

    fn statement(&mut self, entry: &mut Entry) -> Result<(), PtxError> {
        let line = self.parser.tokens[self.parser.at].line;
        let mut guard = Guard::Always;
        if self.parser.accept("@") {
            let holds = !self.parser.accept("!");
            let name = self.parser.next();
            let Some(Operand::Predicate(register)) = self.names.operand(name) else {
                return self.parser.error(format!("`{name}` is no predicate"));
            };
            guard = Guard::If(register, holds);
        }
        let opcode = self.parser.next();
        let start = self.parser.at;
        while !matches!(self.parser.peek(), ";" | "") {
            self.parser.at += 1;
        }
        let words: Vec<&str> =
            self.parser.tokens[start..self.parser.at].iter().map(|token| token.text).collect();
        self.parser.expect(";")?;
        let source = self.source.unwrap_or((0, line));
        let op = if opcode == "bra" || opcode == "bra.uni" {
            let label = words.first().copied().unwrap_or_default();
            self.branches.push((entry.code.len(), label));
            Op::Branch(0)
        } else {
            decode(&Statement { opcode, words: &words }, &self.names).map_err(|message| PtxError {
                line,
                message: format!("{message} in `{opcode} {}`", words.concat()),
            })?
        };
        entry.code.push(Instruction { guard, op, source });
        Ok(())
    }
}

/// Bytes of a type of variables.
fn bytes_of(kind: &str) -> Option<usize> {
    Some(match kind {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        _ => return None,
    })
}
