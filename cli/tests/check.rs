//! Configurations good and bad, alone and inside what people deploy.

mod common;

use common::{Desk, guard_yaml, indented};
use serde_json::Value;

fn desk() -> Desk {
    let desk = Desk::with_ca(&[]);
    desk.write("guard.yaml", guard_yaml(&desk.read("ca/issuer.yaml")));
    desk
}

/// With it, the guard takes over where the synchroniser is gone.
const REGISTRY: &str = "registry: {cluster: registry, authority: registry}\n";

/// A bootstrap around the guard: its policy, its `vm_id`, what stands after it, its routes.
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
        let guard = indented(&format!("{guard}{REGISTRY}"), 16);
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

/// Each bootstrap gets this finding, with a line; and with --strict an error.
fn each_is_found(cases: &[(Bootstrap<'_>, &str, &str)]) {
    let desk = desk();
    let guard = desk.read("guard.yaml");
    for (bootstrap, severity, what) in cases {
        desk.write("envoy.yaml", bootstrap.yaml(&guard));
        let status = if *severity == "error" { 2 } else { 0 };
        let found = findings(&desk, "envoy.yaml", status);
        let named = found.iter().any(|one| {
            one["severity"] == *severity
                && one["what"].as_str().unwrap().contains(what)
                && one["line"].as_u64().unwrap() > 0
        });
        assert!(named, "{what}: {found:?}");
        let strict = desk.run(&["check", "envoy.yaml", "--strict"]).ended_with(2);
        let said = strict.out;
        assert!(
            said.contains("error: ") && !said.contains("warning: "),
            "{said}"
        );
    }
}

#[test]
fn a_plug_in_that_lets_traffic_past_or_shares_its_cache_is_pointed_out() {
    let open = format!("failure_policy: FAIL_{}", "OPEN");
    let plugin = |policy, vm_id| Bootstrap {
        policy,
        vm_id,
        ..GOOD
    };
    let reload = GOOD.policy;
    let stranger = "  - {name: stranger, typed_config: {config: {vm_config: {vm_id: medbind}, configuration: {}}}}";
    each_is_found(&[
        (plugin("name: medbind", "medbind"), "warning", "503"),
        (
            plugin("failure_policy: FAIL_CLOSED", "medbind"),
            "warning",
            "503",
        ),
        (plugin(&open, "medbind"), "error", "past the guard"),
        (plugin(reload, "other"), "warning", "cache of its own"),
        (plugin(reload, "''"), "warning", "without a vm_id"),
        (
            Bootstrap {
                after: stranger,
                ..GOOD
            },
            "warning",
            "shared with another plug-in",
        ),
    ]);
}

#[test]
fn a_route_that_envoy_answers_by_itself_needs_no_guard() {
    let desk = desk();
    let bootstrap = GOOD.yaml(&desk.read("guard.yaml"));
    let answered = bootstrap.replace(
        "route: {cluster: upstream}",
        "direct_response: {status: 200}, typed_per_filter_config: {medbind: {disabled: true}}",
    );
    assert!(answered.contains("direct_response"));
    desk.write("bootstrap.yaml", answered);
    assert_eq!(findings(&desk, "bootstrap.yaml", 0), [] as [Value; 0]);
}

#[test]
fn filters_and_routes_that_undo_a_decision_are_pointed_out() {
    let typed = |kind: &str| {
        format!(
            "  - {{name: x, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.{kind}}}}}"
        )
    };
    let (jwt, lua) = (typed("jwt_authn.v3.JwtAuthentication"), typed("lua.v3.Lua"));
    let after = |after| Bootstrap { after, ..GOOD };
    let route = |route| Bootstrap { route, ..GOOD };
    let disabled = "{cluster: up}, typed_per_filter_config: {medbind: {disabled: true}}";
    let header = "{cluster: up}, request_headers_to_remove: [X-Medbind-Account]";
    each_is_found(&[
        (after(&jwt), "warning", "no token is verified"),
        (after(&lua), "warning", "may change path or tag"),
        (
            Bootstrap {
                more: "disabled: true",
                ..GOOD
            },
            "error",
            "switched off",
        ),
        (
            route("{cluster: up, prefix_rewrite: /}"),
            "warning",
            "another path",
        ),
        (route(disabled), "error", "on this route"),
        (route(header), "warning", "after the guard has set it"),
        (
            route("{cluster: up, early_data_policy: {name: x}}"),
            "warning",
            "replayed",
        ),
    ]);
}

#[test]
fn a_guard_that_nothing_feeds_is_pointed_out() {
    let desk = desk();
    let both = GOOD.yaml(&desk.read("guard.yaml"));
    let guards = both.find("static_resources").unwrap();
    let (synchroniser, guard) = both.split_at(guards);
    let alone = guard.replace(REGISTRY, "\n");
    for (text, said) in [
        (alone.clone(), Some("there is no synchroniser")),
        (format!("{synchroniser}{alone}"), Some("stays down")),
        (guard.to_owned(), None),
        (both.clone(), None),
    ] {
        desk.write("envoy.yaml", text);
        let found = findings(&desk, "envoy.yaml", 0);
        assert_eq!(found.len(), usize::from(said.is_some()), "{found:?}");
        let told = found.first().and_then(|one| one["what"].as_str());
        assert!(
            told.zip(said)
                .is_none_or(|(told, said)| told.contains(said))
        );
    }
}

#[test]
fn the_shipped_file_says_what_goes_where_its_placeholder_is() {
    let desk = Desk::new();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../envoy/http.yaml");
    let said = desk.run(&["check", shipped]).ended_with(2).out;
    assert!(
        said.contains("placeholder") && said.contains("medbind edge init"),
        "{said}"
    );
    assert!(said.ends_with("1 errors, 0 warnings\n"), "{said}");
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
