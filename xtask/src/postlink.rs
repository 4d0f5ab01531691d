//! What of the linked module does Envoy have to see? The SDK exports every callback there is,
//! and Envoy enters the VM for each one on every request. This keeps those that medbind acts
//! upon, and drops with the others all code and all imports that only they reached.

use std::collections::BTreeSet;
use std::convert::Infallible;

use anyhow::{Context, Result, bail};
use wasm_encoder::reencode::{self, Reencode};
use wasmparser::{
    CustomSectionReader, ElementItems, ExternalKind, FunctionBody, KnownCustom, Name, Operator,
    Parser, Payload, TypeRef, Validator,
};

/// What Envoy may call: the callbacks that medbind acts upon, and what the runtime needs besides.
/// The capability lists in `envoy/` name the same callbacks.
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
}

/// Drops every export that is not among [`EXPORTS`], every import that is not among [`IMPORTS`],
/// and what nothing else reaches.
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
}

impl Trimmer {
    fn plan(module: &[u8]) -> Result<Self> {
        let mut imports = Vec::new();
        let mut roots = Vec::new();
        let mut calls: Vec<Vec<u32>> = Vec::new();
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
                Payload::CodeSectionEntry(body) => calls.push(callees(&body)?),
                _ => {}
            }
        }
        let imported = imports.len();
        let mut live = BTreeSet::new();
        while let Some(function) = roots.pop() {
            if live.insert(usize::try_from(function)?) {
                let body = usize::try_from(function)?.checked_sub(imported);
                roots.extend(body.and_then(|body| calls.get(body)).into_iter().flatten());
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
        let bodies = of(|imported, _| !imported);
        let mut renumbered = vec![None; imported + calls.len()];
        let order = kept.iter().chain(&barred).copied().chain(bodies);
        for (new, old) in order.enumerate() {
            if let Some(place) = renumbered.get_mut(old) {
                *place = Some(u32::try_from(new)?);
            }
        }
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
        })
    }

    fn new_index(&self, function: usize) -> Option<u32> {
        self.renumbered.get(function).copied().flatten()
    }
}

fn callees(body: &FunctionBody<'_>) -> Result<Vec<u32>> {
    let mut callees = Vec::new();
    for operator in body.get_operators_reader()? {
        if let Operator::Call { function_index }
        | Operator::ReturnCall { function_index }
        | Operator::RefFunc { function_index } = operator?
        {
            callees.push(function_index);
        }
    }
    Ok(callees)
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
            if self.new_index(self.imported + position).is_some() {
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
            if self.new_index(self.imported + position).is_some() {
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
                                by_index.insert(index, naming.name);
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

    use super::{Shape, trim};

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
        let mut module = Module::new();
        module
            .section(&types)
            .section(&imports)
            .section(&functions)
            .section(&exports)
            .section(&code);
        module.finish()
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
    fn trimming_twice_changes_nothing_more() {
        let once = trim(&module()).unwrap();
        assert_eq!(trim(&once).unwrap(), once);
    }
}
