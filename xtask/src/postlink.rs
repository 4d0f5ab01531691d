//! What of the linked module does Envoy have to see? The SDK exports every callback there is,
//! and Envoy enters the VM for each one on every request. This keeps those that medbind acts
//! upon, and drops with the others all code and all imports that only they reached. Of functions
//! that are alike, one stays: what generic code becomes for two types is often the same.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;

use anyhow::{Context, Result, bail};
use wasm_encoder::reencode::{self, Reencode};
use wasmparser::{
    CustomSectionReader, ElementItems, ExternalKind, FunctionBody, KnownCustom, Name, Operator,
    Parser, Payload, TypeRef, Validator,
};

/// What Envoy may call: the callbacks that medbind acts upon, and what the runtime needs besides.
/// A module that has less is not finished, and the capability lists in `envoy/` are held against
/// the finished one.
pub const EXPORTS: [&str; 12] = [
    "_initialize",
    "malloc",
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_http_call_response",
    "proxy_on_request_headers",
    "proxy_on_request_trailers",
    "proxy_on_tick",
    "proxy_on_vm_start",
];

/// What the module may call: the host functions behind `src/host.rs`. The SDK can name others, in
/// methods that nobody calls; a call of one of those would trap.
pub const IMPORTS: [&str; 21] = [
    "proxy_call_foreign_function",
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_get_buffer_bytes",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_send_local_response",
    "proxy_set_effective_context",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
];

/// What the outside of a module looks like.
pub struct Shape {
    /// Its imports, as `env.proxy_log`.
    pub imports: Vec<String>,
    /// Its exports.
    pub exports: Vec<String>,
}

impl Shape {
    /// Reads the imports and exports of a module, in order of their names.
    pub fn read(module: &[u8]) -> Result<Self> {
        let (mut imports, mut exports) = (Vec::new(), Vec::new());
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        imports.push(format!("{}.{}", import.module, import.name));
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        exports.push(export?.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        imports.sort();
        exports.sort();
        Ok(Self { imports, exports })
    }

    /// Fails where the module does without something that [`IMPORTS`] or [`EXPORTS`] name: they
    /// are what it uses, and no more.
    pub fn is_all_that_is_allowed(&self) -> Result<()> {
        let imports = IMPORTS.map(|name| format!("env.{name}"));
        for (list, allowed, there) in [
            ("IMPORTS", imports.as_slice(), &self.imports),
            ("EXPORTS", &EXPORTS.map(str::to_owned), &self.exports),
        ] {
            if let Some(name) = allowed.iter().find(|name| !there.contains(name)) {
                bail!("the module has no {name}: take it out of {list} in xtask/src/postlink.rs");
            }
        }
        Ok(())
    }

    /// What Envoy's `allowed_capabilities` has to name, in the order of the names: the callbacks,
    /// and the host functions.
    pub fn capabilities(&self) -> (Vec<&str>, Vec<&str>) {
        let callbacks = self.exports.iter().map(String::as_str);
        let functions = self
            .imports
            .iter()
            .filter_map(|name| name.strip_prefix("env."));
        (
            callbacks
                .filter(|name| name.starts_with("proxy_on_"))
                .collect(),
            functions.collect(),
        )
    }
}

/// Drops every export that is not among [`EXPORTS`], every import that is not among [`IMPORTS`],
/// what nothing else reaches, and what is there twice.
pub fn trim(module: &[u8]) -> Result<Vec<u8>> {
    let mut trimmer = Trimmer::plan(module)?;
    let mut output = wasm_encoder::Module::new();
    trimmer
        .parse_core_module(&mut output, Parser::new(0), module)
        .map_err(|error| anyhow::anyhow!("the linked module cannot be written again: {error}"))?;
    let output = output.finish();
    Validator::new()
        .validate_all(&output)
        .context("the trimmed module is not valid")?;
    Ok(output)
}

struct Trimmer {
    /// New index of each function, none for those that go.
    renumbered: Vec<Option<u32>>,
    /// How many functions are imported.
    imported: usize,
    /// The types of the imported functions that are named and may not be called: functions of the
    /// same types that trap stand in their place.
    barred: Vec<u32>,
    /// The imported functions that stay.
    kept: BTreeSet<usize>,
    /// The other functions that stay.
    written: BTreeSet<usize>,
}

impl Trimmer {
    fn plan(module: &[u8]) -> Result<Self> {
        let mut imports = Vec::new();
        let mut roots = Vec::new();
        let mut types = Vec::new();
        let mut bodies = Vec::new();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        if let TypeRef::Func(ty) | TypeRef::FuncExact(ty) = import.ty {
                            let allowed = import.module == "env" && IMPORTS.contains(&import.name);
                            imports.push((ty, allowed));
                        }
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        if EXPORTS.contains(&export.name) && export.kind == ExternalKind::Func {
                            roots.push(export.index);
                        }
                    }
                }
                Payload::StartSection { func, .. } => roots.push(func),
                Payload::ElementSection(section) => {
                    for element in section {
                        match element?.items {
                            ElementItems::Functions(functions) => {
                                for function in functions {
                                    roots.push(function?);
                                }
                            }
                            ElementItems::Expressions(..) => {
                                bail!("tables of expressions are not expected here")
                            }
                        }
                    }
                }
                Payload::GlobalSection(section) => {
                    for global in section {
                        for operator in global?.init_expr.get_operators_reader() {
                            if let Operator::RefFunc { function_index } = operator? {
                                roots.push(function_index);
                            }
                        }
                    }
                }
                Payload::FunctionSection(section) => {
                    types = section.into_iter().collect::<Result<_, _>>()?;
                }
                Payload::CodeSectionEntry(body) => bodies.push(Body::read(&body)?),
                _ => {}
            }
        }
        let imported = imports.len();
        let alike = alike(imported, &types, &bodies);
        let mut live = BTreeSet::new();
        while let Some(function) = roots.pop() {
            let Some(function) = alike.get(usize::try_from(function)?).copied() else {
                bail!("the linked module names a function that it does not have");
            };
            if live.insert(usize::try_from(function)?) {
                let body = usize::try_from(function)?.checked_sub(imported);
                let body = body.and_then(|body| bodies.get(body));
                roots.extend(body.into_iter().flat_map(Body::callees));
            }
        }
        // In the order of the new module: imports, what stands in the place of others, the rest.
        let is_allowed =
            |function: usize| imports.get(function).is_some_and(|(_, allowed)| *allowed);
        let of = |part: fn(bool, bool) -> bool| {
            let functions = live.iter().copied();
            functions.filter(move |function| part(*function < imported, is_allowed(*function)))
        };
        let kept = of(|imported, allowed| imported && allowed).collect::<BTreeSet<_>>();
        let barred = of(|imported, allowed| imported && !allowed).collect::<Vec<_>>();
        let written = of(|imported, _| !imported).collect::<BTreeSet<_>>();
        let order = kept.iter().chain(&barred).chain(&written);
        let new = order.copied().zip(0..).collect::<HashMap<usize, u32>>();
        let renumbered = alike
            .iter()
            .map(|function| Ok(new.get(&usize::try_from(*function)?).copied()))
            .collect::<Result<_>>()?;
        let barred = barred
            .iter()
            .filter_map(|function| imports.get(*function))
            .map(|(ty, _)| *ty)
            .collect();
        Ok(Self {
            renumbered,
            imported,
            barred,
            kept,
            written,
        })
    }

    fn new_index(&self, function: usize) -> Option<u32> {
        self.renumbered.get(function).copied().flatten()
    }
}

/// The code of a function, the functions that it names apart from all else.
struct Body(Vec<Part>);

enum Part {
    Octets(Vec<u8>),
    Function(u32),
}

impl Body {
    fn read(body: &FunctionBody<'_>) -> Result<Self> {
        let mut parts = Vec::new();
        let start = body.range().start;
        // What is not a part yet begins here.
        let mut rest = 0;
        let octets = body.as_bytes();
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let place = usize::try_from(operators.original_position() - start)?;
            if let Operator::Call { function_index }
            | Operator::ReturnCall { function_index }
            | Operator::RefFunc { function_index } = operators.read()?
            {
                // Its opcode, one octet in each of the three.
                let before = octets.get(rest..=place).unwrap_or_default();
                parts.push(Part::Octets(before.to_vec()));
                parts.push(Part::Function(function_index));
                rest = usize::try_from(operators.original_position() - start)?;
            }
        }
        let after = octets.get(rest..).unwrap_or_default();
        parts.push(Part::Octets(after.to_vec()));
        Ok(Self(parts))
    }

    fn callees(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter_map(|part| match part {
            Part::Octets(_) => None,
            Part::Function(function) => Some(*function),
        })
    }

    /// The same for functions that do the same, as far as `alike` tells.
    fn key(&self, alike: &[u32]) -> Vec<u8> {
        let mut key = Vec::new();
        for part in &self.0 {
            match part {
                Part::Octets(octets) => {
                    key.extend(octets.len().to_le_bytes());
                    key.extend(octets);
                }
                Part::Function(function) => {
                    let place = usize::try_from(*function).unwrap_or(usize::MAX);
                    let function = alike.get(place).unwrap_or(function);
                    key.extend(function.to_le_bytes());
                }
            }
        }
        key
    }
}

/// For each function the one that stands for it: the first that is of the same type and does the
/// same, or itself.
fn alike(imported: usize, types: &[u32], bodies: &[Body]) -> Vec<u32> {
    let mut alike = (0..).take(imported + bodies.len()).collect::<Vec<u32>>();
    loop {
        let mut known = HashMap::new();
        let mut merged = false;
        for (position, (ty, body)) in types.iter().zip(bodies).enumerate() {
            let key = (*ty, body.key(&alike));
            let Some(place) = alike.get_mut(imported + position) else {
                continue;
            };
            let first = *known.entry(key).or_insert(*place);
            merged |= *place != first;
            *place = first;
        }
        if !merged {
            return alike;
        }
    }
}

impl Reencode for Trimmer {
    type Error = Infallible;

    fn function_index(&mut self, func: u32) -> Result<u32, reencode::Error> {
        let index = usize::try_from(func)
            .ok()
            .and_then(|func| self.new_index(func));
        index.ok_or(reencode::Error::InvalidConstExpr)
    }

    fn parse_import_section(
        &mut self,
        imports: &mut wasm_encoder::ImportSection,
        section: wasmparser::ImportSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        let mut function = 0;
        for import in section.into_imports() {
            let import = import?;
            if matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                function += 1;
                if !self.kept.contains(&(function - 1)) {
                    continue;
                }
            }
            self.parse_import(imports, import)?;
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut wasm_encoder::FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        for ty in self.barred.clone() {
            functions.function(self.type_index(ty)?);
        }
        for (position, ty) in section.into_iter().enumerate() {
            let ty = ty?;
            if self.written.contains(&(self.imported + position)) {
                functions.function(self.type_index(ty)?);
            }
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut wasm_encoder::CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        for _ in &self.barred {
            let mut body = wasm_encoder::Function::new([]);
            body.instructions().unreachable().end();
            code.function(&body);
        }
        for (position, body) in section.into_iter().enumerate() {
            let body = body?;
            if self.written.contains(&(self.imported + position)) {
                self.parse_function_body(code, body)?;
            }
        }
        Ok(())
    }

    fn parse_export(
        &mut self,
        exports: &mut wasm_encoder::ExportSection,
        export: wasmparser::Export<'_>,
    ) -> Result<(), reencode::Error> {
        if EXPORTS.contains(&export.name) {
            reencode::utils::parse_export(self, exports, export)?;
        }
        Ok(())
    }

    /// The names of functions are kept, so that a trap in Envoy's log can be read.
    fn parse_custom_section(
        &mut self,
        module: &mut wasm_encoder::Module,
        section: CustomSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        match section.as_known() {
            KnownCustom::Name(names) => {
                let mut by_index = std::collections::BTreeMap::new();
                for name in names {
                    if let Name::Function(map) = name? {
                        for naming in map {
                            let naming = naming?;
                            let old = usize::try_from(naming.index).unwrap_or(usize::MAX);
                            if let Some(index) = self.new_index(old) {
                                // Of functions that are alike, the first gives the name.
                                by_index.entry(index).or_insert(naming.name);
                            }
                        }
                    }
                }
                let mut functions = wasm_encoder::NameMap::new();
                for (index, name) in by_index {
                    functions.append(index, name);
                }
                let mut section = wasm_encoder::NameSection::new();
                section.functions(&functions);
                module.section(&section);
                Ok(())
            }
            // What tells the compiler's version and features is of no use to Envoy.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        CodeSection, EntityType, ExportKind, ExportSection, Function, FunctionSection,
        ImportSection, Module, TypeSection,
    };

    use super::{Parser, Payload, Shape, trim};

    /// The sections of a module, in their order.
    fn assembled(
        types: &TypeSection,
        imports: &ImportSection,
        functions: &FunctionSection,
        exports: &ExportSection,
        code: &CodeSection,
    ) -> Vec<u8> {
        let mut module = Module::new();
        module.section(types);
        if !imports.is_empty() {
            module.section(imports);
        }
        module.section(functions).section(exports).section(code);
        module.finish()
    }

    /// Three imports and two exports: the first export calls the first import, the second the
    /// others.
    fn module() -> Vec<u8> {
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let mut imports = ImportSection::new();
        for name in ["proxy_log", "proxy_get_property", "proxy_grpc_call"] {
            imports.import("env", name, EntityType::Function(0));
        }
        let mut functions = FunctionSection::new();
        let mut code = CodeSection::new();
        for callees in [vec![0], vec![1, 2]] {
            functions.function(0);
            let mut body = Function::new([]);
            for callee in callees {
                body.instructions().call(callee);
            }
            body.instructions().end();
            code.function(&body);
        }
        let mut exports = ExportSection::new();
        exports.export("proxy_on_grpc_close", ExportKind::Func, 3);
        exports.export("proxy_on_tick", ExportKind::Func, 4);
        assembled(&types, &imports, &functions, &exports, &code)
    }

    #[test]
    fn an_unused_callback_goes_with_all_that_only_it_reached() {
        let after = Shape::read(&trim(&module()).unwrap()).unwrap();
        assert_eq!(after.exports, ["proxy_on_tick"]);
        assert!(!after.imports.contains(&"env.proxy_log".to_owned()));
    }

    #[test]
    fn a_host_function_that_is_not_allowed_is_not_imported() {
        let before = Shape::read(&module()).unwrap();
        assert!(before.imports.contains(&"env.proxy_grpc_call".to_owned()));
        let after = Shape::read(&trim(&module()).unwrap()).unwrap();
        assert_eq!(after.imports, ["env.proxy_get_property"]);
    }

    #[test]
    fn the_capabilities_are_the_callbacks_and_the_host_functions() {
        let shape = Shape::read(&module()).unwrap();
        let (callbacks, functions) = shape.capabilities();
        assert_eq!(callbacks, ["proxy_on_grpc_close", "proxy_on_tick"]);
        assert_eq!(
            functions,
            ["proxy_get_property", "proxy_grpc_call", "proxy_log"]
        );
    }

    #[test]
    fn a_module_that_does_without_something_that_it_may_have_is_not_finished() {
        let shape = Shape::read(&trim(&module()).unwrap()).unwrap();
        let error = shape.is_all_that_is_allowed().unwrap_err().to_string();
        assert!(error.contains("take it out of IMPORTS"), "{error}");
    }

    /// Four functions, each exported: two that return 7, and one that calls the first of them and
    /// one that calls the second.
    #[test]
    fn of_functions_that_are_alike_one_stays_and_all_who_call_them_are_alike_too() {
        let mut types = TypeSection::new();
        types.ty().function([], [wasm_encoder::ValType::I32]);
        let mut functions = FunctionSection::new();
        let mut code = CodeSection::new();
        for callee in [None, None, Some(0), Some(1)] {
            functions.function(0);
            let mut body = Function::new([]);
            match callee {
                None => body.instructions().i32_const(7).end(),
                Some(callee) => body.instructions().call(callee).end(),
            };
            code.function(&body);
        }
        let mut exports = ExportSection::new();
        exports.export("proxy_on_tick", ExportKind::Func, 2);
        exports.export("proxy_on_delete", ExportKind::Func, 3);
        let imports = ImportSection::new();
        let module = assembled(&types, &imports, &functions, &exports, &code);
        let trimmed = trim(&module).unwrap();
        let mut bodies = 0;
        let mut exported = Vec::new();
        for payload in Parser::new(0).parse_all(&trimmed) {
            match payload.unwrap() {
                Payload::CodeSectionEntry(_) => bodies += 1,
                Payload::ExportSection(section) => {
                    exported.extend(section.into_iter().map(|export| export.unwrap().index));
                }
                _ => {}
            }
        }
        assert_eq!((bodies, exported), (2, vec![1, 1]));
    }

    #[test]
    fn functions_of_different_types_are_never_alike() {
        let mut types = TypeSection::new();
        types.ty().function([], []);
        types.ty().function([wasm_encoder::ValType::I32], []);
        let mut functions = FunctionSection::new();
        functions.function(0).function(1);
        let mut code = CodeSection::new();
        let mut exports = ExportSection::new();
        for (name, function) in [("proxy_on_tick", 0), ("proxy_on_delete", 1)] {
            let mut body = Function::new([]);
            body.instructions().end();
            code.function(&body);
            exports.export(name, ExportKind::Func, function);
        }
        let imports = ImportSection::new();
        let module = assembled(&types, &imports, &functions, &exports, &code);
        assert_eq!(trim(&module).unwrap().len(), module.len());
    }

    #[test]
    fn trimming_twice_changes_nothing_more() {
        let once = trim(&module()).unwrap();
        assert_eq!(trim(&once).unwrap(), once);
    }
}
