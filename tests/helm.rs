//! The chart, rendered by helm and judged by Kubernetes' own schemas; what it tells callbackd, read by callbackd.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use callbackd::config;
use serde_json::{Value, json};

#[path = "specifications/judge.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod judge;

/// What is needed in any case.
const NEEDED: [&str; 2] = ["--set", "broker.urlSecret.name=callbackd-broker"];
/// Everything that is off by default, and lists that are empty.
const ALL: [&str; 24] = [
    "--set",
    "serviceMonitor.enabled=true,serviceMonitor.labels.team=a",
    "--set",
    "prometheusRule.enabled=true",
    "--set-json",
    r#"prometheusRule.groups=[{"name":"g","rules":[{"alert":"A","expr":"up == 0"}]}]"#,
    "--set",
    "autoscaling.enabled=true",
    "--set",
    "stopTimeoutSeconds=100,admin.port=9000,integrators.configMap=theirs,integrators.secret=secrets,deliveryLog.urlSecret.name=log",
    "--set-json",
    r#"env=[{"name":"CALLBACKD__LOG__LEVEL","value":"debug"}]"#,
    "--set-json",
    r#"envFrom=[{"secretRef":{"name":"more"}}]"#,
    "--set-json",
    r#"tolerations=[{"key":"a","operator":"Exists"}]"#,
    "--set-json",
    r#"topologySpreadConstraints=[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule"}]"#,
    "--set-json",
    r#"networkPolicy.ingressFrom=[{"namespaceSelector":{}}]"#,
    "--set-json",
    r#"networkPolicy.extraEgress=[{"to":[{"ipBlock":{"cidr":"10.1.0.0/16"}}]}]"#,
    "--set",
    "podLabels.a=b,podAnnotations.c=d,nodeSelector.e=f,priorityClassName=high,imagePullSecrets[0].name=pull",
];
/// The oldest version of Kubernetes that the chart allows, and a new one.
const VERSIONS: [&str; 2] = ["1.27", "1.35"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn helm(arguments: &[&str]) -> Output {
    let helm = std::env::var("CALLBACKD_TEST_HELM").expect("CALLBACKD_TEST_HELM must name helm (tests/run.sh does it)");
    let folder = tempfile::tempdir().expect("a folder");
    // Nothing of whoever runs the tests.
    let own = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, folder.path()));
    Command::new(helm)
        .args(arguments)
        .current_dir(root())
        .env_remove("KUBECONFIG")
        .envs(own)
        .output()
        .expect("helm runs; please install it")
}

fn rendered(more: &[&str]) -> String {
    let output = helm(&[&["template", "callbackd", "deploy/helm/callbackd"], &NEEDED[..], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The objects, and the kinds that are not Kubernetes' own.
fn judged(version: &str, text: &str) -> (Vec<Value>, Value) {
    let found = judge::judged("kubernetes.py", &json!({"version": version, "text": text}));
    assert_eq!(found["faults"], json!([]), "{version}");
    (found["objects"].as_array().expect("objects").clone(), found["unknown"].clone())
}

fn alerts_of(group: &Value) -> Vec<&str> {
    group["rules"].as_array().expect("rules").iter().filter_map(|rule| rule["alert"].as_str()).collect()
}

/// A chart cannot hold what is outside of it.
#[test]
fn the_alerts_of_the_chart_are_those_for_everybody() {
    let [ours, theirs] = ["deploy/prometheus/alerts.yml", "deploy/helm/callbackd/files/alerts.yml"].map(|path| root().join(path));
    if std::env::var_os("CALLBACKD_UPDATE").is_some() {
        std::fs::copy(&ours, &theirs).expect("copied");
    }
    let [text, copy] = [&ours, &theirs].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    assert!(text == copy, "{} is stale; cargo test --test helm with CALLBACKD_UPDATE=1 writes it", theirs.display());
}

fn object<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|one| one["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn the_chart_has_no_faults_and_is_of_this_version() {
    let output = helm(&[&["lint", "--strict", "deploy/helm/callbackd"], &NEEDED[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let chart = std::fs::read_to_string(root().join("deploy/helm/callbackd/Chart.yaml")).expect("the chart");
    assert!(chart.contains(concat!("appVersion: ", env!("CARGO_PKG_VERSION"), "\n")), "{chart}");
}

#[test]
fn kubernetes_takes_what_is_rendered_with_little_and_with_all() {
    for version in VERSIONS {
        let (objects, unknown) = judged(version, &rendered(&[]));
        let mut kinds: Vec<&str> = objects.iter().map(|one| one["kind"].as_str().expect("a kind")).collect();
        kinds.sort_unstable();
        let least = ["ConfigMap", "ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"];
        assert_eq!((kinds.as_slice(), unknown), (&least[..], json!([])));
        let (objects, unknown) = judged(version, &rendered(&ALL));
        assert_eq!(unknown, json!(["PrometheusRule", "ScaledObject", "ServiceMonitor"]));
        assert_eq!(object(&objects, "Deployment")["spec"].get("replicas"), None, "who scales decides");
        assert_eq!(object(&objects, "ScaledObject")["spec"]["triggers"].as_array().map(Vec::len), Some(2));
    }
    let rule = object(&judged(VERSIONS[0], &rendered(&ALL)).0, "PrometheusRule").clone();
    let alerts: Vec<&str> = rule["spec"]["groups"].as_array().expect("groups").iter().flat_map(alerts_of).collect();
    assert!(alerts.contains(&"CallbackdDeadLetters") && alerts.contains(&"A"), "{alerts:?}");
    // The judge can refuse.
    let found = judge::judged("kubernetes.py", &json!({"version": "1.35", "text": rendered(&[]).replace("httpGet:", "httpGett:")}));
    assert_eq!(found["faults"].as_array().map(Vec::len), Some(1), "{}", found["faults"]);
}

/// The configuration that the pod reads, with the variables that the chart sets and a broker from a Secret.
fn configuration(objects: &[Value]) -> config::Config {
    let container = &object(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let environment = container["env"].as_array().expect("variables").iter().map(|variable| match variable["valueFrom"] {
        Value::Null => (text(&variable["name"]), text(&variable["value"])),
        _ if variable["name"] == "CALLBACKD__BROKER__URL" => (text(&variable["name"]), "amqp://rabbitmq".to_owned()),
        _ => (text(&variable["name"]), "postgres://database/callbackd?sslmode=verify-full".to_owned()),
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("callbackd.toml");
    std::fs::write(&file, text(&object(objects, "ConfigMap")["data"]["callbackd.toml"])).expect("written");
    config::load(&file, environment).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn callbackd_takes_what_the_chart_tells_it_and_the_pod_has_time_to_stop() {
    for (more, port) in [(&[][..], 9464), (&ALL[..], 9000)] {
        let (objects, _) = judged("1.35", &rendered(more));
        let config = configuration(&objects);
        assert_eq!((config.sources.len(), config.admin.listen.port(), config.admin.api), (2, port, false));
        assert_eq!(config.delivery_log.database.is_some(), port == 9000, "no file where nothing can be written");
        let pod = &object(&objects, "Deployment")["spec"]["template"]["spec"];
        let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a number");
        assert!(grace >= (config.worker.stop_timeout + config.broker.timeout).as_secs() + 5, "{grace} s for {:?}", config.worker);
        let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
        let is_mounted = |path: &PathBuf| mounts.iter().any(|mount| path.starts_with(mount["mountPath"].as_str().expect("a path")));
        assert!(is_mounted(&config.integrators_file) && config.secrets_dir.as_ref().is_some_and(is_mounted), "{mounts:?}");
        assert_eq!(pod["containers"][0]["ports"][0]["containerPort"], port);
    }
}

#[test]
fn values_that_are_wrong_are_refused_before_anything_is_rendered() {
    for wrong in [
        "replicas=two",
        "image.tagg=1",
        "admin.port=70000",
        "stopTimeoutSeconds=601",
        "networkPolicy.brokerPorts={}",
        "broker.urlSecret.key=",
    ] {
        let output = helm(&[&["template", "x", "deploy/helm/callbackd"], &NEEDED[..], &["--set", wrong]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("values don't meet the specifications of the schema"), "{wrong}: {said}");
    }
    let output = helm(&["template", "x", "deploy/helm/callbackd"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("broker.urlSecret.name is needed"));
}

#[test]
fn the_plain_example_is_what_the_chart_makes() {
    const HEAD: &str = "\
# callbackd on Kubernetes without helm: what the chart in deploy/helm/callbackd makes of its defaults. Before it:
#
#   kubectl create secret generic callbackd-broker --from-literal=url=amqps://user:password@rabbitmq/%2f
#
# and with it sources in callbackd.toml, and integrators in integrators.toml, both below.
";
    let path = root().join("deploy/kubernetes/callbackd.yaml");
    let text = format!("{HEAD}{}", rendered(&[]).replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl"));
    if std::env::var_os("CALLBACKD_UPDATE").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} is stale; cargo test --test helm with CALLBACKD_UPDATE=1 writes it", path.display());
    judged("1.35", &found);
}
