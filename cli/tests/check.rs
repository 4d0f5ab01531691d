//! Configurations good and bad, alone and inside what people deploy.

mod common;

use common::{Desk, guard_yaml};
use serde_json::Value;

fn desk() -> Desk {
    let desk = Desk::new();
    desk.run(&["ca", "init", "ca", "--namespace", "acme"])
        .ended_with(0);
    desk.write("guard.yaml", guard_yaml(&desk.read("ca/issuer.yaml")));
    desk
}

fn indented(text: &str, by: usize) -> String {
    text.lines()
        .map(|line| format!("{}{line}\n", " ".repeat(by)))
        .collect()
}

/// A bootstrap around the guard: its policy, its vm_id, what stands after it, its routes.
struct Bootstrap<'a> {
    policy: &'a str,
    vm_id: &'a str,
    more: &'a str,
    after: &'a str,
    route: &'a str,
}

const GOOD: Bootstrap<'static> = Bootstrap {
    policy: "failure_policy: FAIL_RELOAD",
    vm_id: "medbind",
    more: "",
    after: "",
    route: "{cluster: upstream}",
};

impl Bootstrap<'_> {
    fn yaml(&self, guard: &str) -> String {
        let Self {
            policy,
            vm_id,
            more,
            after,
            route,
        } = self;
        let guard = indented(guard, 16);
        let after = indented(after, 8);
        format!(
            "bootstrap_extensions:
- name: envoy.bootstrap.wasm
  typed_config:
    config:
      failure_policy: FAIL_RELOAD
      vm_config: {{vm_id: medbind}}
      configuration:
        \"@type\": type.googleapis.com/google.protobuf.StringValue
        value: |
          role: sync
          registry: {{cluster: registry, authority: registry}}
static_resources:
  listeners:
  - filter_chains:
    - filters:
      - typed_config:
          http_filters:
          - name: medbind
            {more}
            typed_config:
              config:
                {policy}
                vm_config: {{vm_id: {vm_id}}}
                configuration:
                  \"@type\": type.googleapis.com/google.protobuf.Struct
                  value:
                    GUARD
{after}          - {{name: router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}
          route_config:
            virtual_hosts:
            - routes:
              - {{match: {{prefix: /}}, route: {route}}}
"
        )
        .replace("                    GUARD\n", &indented(&guard, 4))
        .replace("            \n", "")
    }
}

fn findings(desk: &Desk, file: &str, status: i32) -> Vec<Value> {
    let told = desk
        .run(&["check", file, "--json"])
        .ended_with(status)
        .json();
    assert_eq!(told["ok"], status == 0);
    told["findings"].as_array().unwrap().clone()
}

#[test]
fn a_good_configuration_is_found_wherever_it_stands() {
    let desk = desk();
    let guard = desk.read("guard.yaml");
    let json = desk
        .run(&["check", "guard.yaml", "--json"])
        .ended_with(0)
        .json();
    assert_eq!(json["configurations"][0]["role"], "http");
    desk.write("bootstrap.yaml", GOOD.yaml(&guard));
    let config_map = format!(
        "apiVersion: v1\nkind: ConfigMap\ndata:\n  other.txt: 'a: b'\n  envoy.yaml: |\n{}---\napiVersion: v1\nkind: ConfigMap\ndata:\n  guard.yaml: |\n{}",
        indented(&GOOD.yaml(&guard), 4),
        indented(&guard, 4)
    );
    desk.write("configmap.yaml", config_map);
    desk.write(
        "wasmplugin.yaml",
        format!(
            "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nspec:\n  url: oci://registry/medbind\n  failStrategy: FAIL_RELOAD\n  pluginConfig:\n{}",
            indented(&guard, 4)
        ),
    );
    desk.write(
        "policy.yaml",
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyExtensionPolicy\nspec:\n  wasm:\n  - name: medbind\n    code: {{type: Image, image: {{url: registry/medbind}}}}\n    config:\n{}",
            indented(&guard, 6)
        ),
    );
    for (file, roles) in [
        ("guard.yaml", &["http"][..]),
        ("bootstrap.yaml", &["sync", "http"]),
        ("configmap.yaml", &["sync", "http", "http"]),
        ("wasmplugin.yaml", &["http"]),
        ("policy.yaml", &["http"]),
    ] {
        let ran = desk.run(&["check", file, "--strict", "--json"]);
        let told = ran.json();
        assert_eq!(told["findings"], Value::Array(Vec::new()), "{file}: {told}");
        let found = told["configurations"].as_array().unwrap();
        let words: Vec<&str> = found
            .iter()
            .map(|one| one["role"].as_str().unwrap())
            .collect();
        assert_eq!(words, roles, "{file}");
        let text = desk.read(file);
        let lines: Vec<&str> = text.lines().collect();
        for one in found {
            let line = usize::try_from(one["line"].as_u64().unwrap()).unwrap();
            assert!(lines[line - 1].contains("role: "), "{file}: {one}");
        }
        desk.run(&["check", file, "--strict"]).ended_with(0);
    }
}

#[test]
fn what_the_module_refuses_is_named_by_file_line_and_field() {
    let desk = desk();
    let guard = desk.read("guard.yaml");
    for (from, to, field, what) in [
        ("mode: enforce", "mode: enforce\nmod: shadow", "mod", "mod"),
        (
            "principals: [anyone]",
            "principals: [anybody]",
            "rules[2].principals[0]",
            "anybody",
        ),
        ("path: /healthz", "path: healthz", "rules[2].path", "/"),
        (
            "namespace: acme",
            "namespace: Acme",
            "issuers[0].namespace",
            "namespace",
        ),
        (
            "mode: enforce",
            "bindings: {max_stale: 15}",
            "bindings.max_stale",
            "15",
        ),
        ("role: http", "role: htpp", "role", "htpp"),
    ] {
        assert!(guard.contains(from));
        let wrong = guard.replace(from, to);
        for (file, text) in [
            ("wrong.yaml", wrong.clone()),
            ("bootstrap.yaml", GOOD.yaml(&wrong)),
            (
                "configmap.yaml",
                format!(
                    "kind: ConfigMap\ndata:\n  guard.yaml: |\n{}",
                    indented(&wrong, 4)
                ),
            ),
        ] {
            desk.write(file, &text);
            let found = findings(&desk, file, 2);
            let found: Vec<&Value> = found
                .iter()
                .filter(|one| one["field"].as_str().unwrap().ends_with(field))
                .collect();
            assert_eq!(found.len(), 1, "{file}, {field}: {found:?}");
            let line = usize::try_from(found[0]["line"].as_u64().unwrap()).unwrap();
            let key = field
                .rsplit(['.', ']'])
                .find(|part| !part.is_empty())
                .unwrap();
            let key = key.split('[').next().unwrap();
            let at = text.lines().nth(line - 1).unwrap();
            assert!(
                at.contains(key) || at.contains(what),
                "{file}, {field}: line {line} is {at:?}"
            );
            assert!(!found[0]["mend"].as_str().unwrap().is_empty());
        }
    }
    let said = desk.run(&["check", "wrong.yaml"]).ended_with(2).out;
    assert!(said.starts_with("wrong.yaml:1: error: role: "), "{said}");
}

#[test]
fn what_weakens_the_guard_is_a_warning_and_with_strict_an_error() {
    let desk = desk();
    let guard = desk.read("guard.yaml");
    let open = format!("failure_policy: FAIL_{}", "OPEN");
    let typed = |name: &str, kind: &str| {
        format!(
            "  - {{name: {name}, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.{kind}}}}}"
        )
    };
    let jwt = typed("jwt", "jwt_authn.v3.JwtAuthentication");
    let lua = typed("lua", "lua.v3.Lua");
    let stranger = "  - {name: stranger, typed_config: {config: {vm_config: {vm_id: medbind}, configuration: {}}}}";
    for (bootstrap, severity, what) in [
        (
            Bootstrap {
                policy: "name: medbind",
                ..GOOD
            },
            "warning",
            "503",
        ),
        (
            Bootstrap {
                policy: "failure_policy: FAIL_CLOSED",
                ..GOOD
            },
            "warning",
            "503",
        ),
        (
            Bootstrap {
                policy: &open,
                ..GOOD
            },
            "error",
            "past the guard",
        ),
        (
            Bootstrap {
                vm_id: "other",
                ..GOOD
            },
            "warning",
            "cache of its own",
        ),
        (
            Bootstrap {
                vm_id: "''",
                ..GOOD
            },
            "warning",
            "without a vm_id",
        ),
        (
            Bootstrap {
                after: &jwt,
                ..GOOD
            },
            "warning",
            "no token is verified",
        ),
        (
            Bootstrap {
                after: &lua,
                ..GOOD
            },
            "warning",
            "may change path or tag",
        ),
        (
            Bootstrap {
                after: stranger,
                ..GOOD
            },
            "warning",
            "shared with another plug-in",
        ),
        (
            Bootstrap {
                more: "disabled: true",
                ..GOOD
            },
            "error",
            "switched off",
        ),
        (
            Bootstrap {
                route: "{cluster: upstream, prefix_rewrite: /}",
                ..GOOD
            },
            "warning",
            "another path",
        ),
        (
            Bootstrap {
                route: "{cluster: upstream}, typed_per_filter_config: {medbind: {disabled: true}}",
                ..GOOD
            },
            "error",
            "on this route",
        ),
        (
            Bootstrap {
                route: "{cluster: upstream}, request_headers_to_remove: [X-Medbind-Account]",
                ..GOOD
            },
            "warning",
            "after the guard has set it",
        ),
        (
            Bootstrap {
                route: "{cluster: upstream, early_data_policy: {name: x}}",
                ..GOOD
            },
            "warning",
            "replayed",
        ),
    ] {
        desk.write("envoy.yaml", bootstrap.yaml(&guard));
        let found = findings(&desk, "envoy.yaml", if severity == "error" { 2 } else { 0 });
        let named = found.iter().any(|one| {
            one["severity"] == severity
                && one["what"].as_str().unwrap().contains(what)
                && one["line"].as_u64().unwrap() > 0
        });
        assert!(named, "{what}: {found:?}");
        let strict = desk.run(&["check", "envoy.yaml", "--strict"]).ended_with(2);
        assert!(
            strict.out.contains("error: ") && !strict.out.contains("warning: "),
            "{}",
            strict.out
        );
    }
    let unfed = GOOD
        .yaml(&guard)
        .replace("role: sync", "rolle: sync")
        .replace("medbind}\n      config", "x}\n      config");
    desk.write("envoy.yaml", unfed);
    let ran = desk.run(&["check", "envoy.yaml"]);
    assert!(ran.out.contains("no synchroniser"), "{}", ran.out);
}

#[test]
fn what_holds_no_configuration_says_so() {
    let desk = desk();
    desk.write(
        "other.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n",
    );
    desk.write("empty.yaml", "");
    desk.write("broken.yaml", "role: http\nrules: [\n");
    for (file, what) in [
        ("other.yaml", "no configuration"),
        ("empty.yaml", "no configuration"),
        ("broken.yaml", "neither YAML nor JSON"),
    ] {
        let ran = desk.run(&["check", file]).ended_with(2);
        assert!(ran.out.contains(what), "{}", ran.out);
    }
    desk.run(&["check", "nothing.yaml"]).ended_with(2);
    desk.run_with(&["check", "-"], &desk.read("guard.yaml"))
        .ended_with(0);
}
