"""CiliumNetworkPolicy: what is refused, where, and why. Follows Cilium's rule_validation_test.go and its CRD schema."""

from __future__ import annotations

import pytest

from l7filters.documents import RE2_PROGRAM_SIZE_MAX
from tests.support.documents import CCNP, CNP, document, refused

P80 = "{port: '80', protocol: TCP}"
P53 = "{port: '53', protocol: UDP}"
TLS = "terminatingTLS: {secret: {name: s}}"


@pytest.mark.parametrize(
    ("kind", "spec", "path", "message"),
    [
        (CNP, "ingress: [{}]", "spec", "needs endpointSelector"),
        (CNP, "endpointSelector: {}\nnodeSelector: {}\ningress: [{}]", "spec", "endpointSelector and nodeSelector exclude"),
        (CNP, "nodeSelector: {}\ningress: [{}]", "spec.nodeSelector", "only a clusterwide policy can select nodes"),
        (CNP, "endpointSelector: {}", "spec", "needs at least one of ingress"),
        (CNP, "endpointSelector: {}\ningress: []\negress: []", "spec", "needs at least one of ingress"),
        (CNP, "endpointSelector: {}\ningress: null", "spec.ingress", "must be a list, not null"),
        (CNP, "endpointSelector: {}\ningress: {}", "spec.ingress", "must be a list, not a mapping"),
        (CNP, "endpointSelector: {}\ningress: [null]", "spec.ingress[0]", "must be a mapping, not null"),
        (CNP, "endpointSelector:\ningress: [{}]", "spec.endpointSelector", "must be a mapping, not null"),
        (CNP, "endpointSelector: {}\ningres: [{}]\negress: [{}]", "spec.ingres", "unknown field"),
        (CNP, "endpointSelector: {}\ningress: [{}]\nmode: audit", "spec.mode", "unknown field"),
        (
            CNP,
            "endpointSelector: {}\ningress: [{}]\nenableDefaultDeny: {ingress: 'false'}",
            "spec.enableDefaultDeny.ingress",
            "must be true or false",
        ),
        (
            CNP,
            "endpointSelector: {}\ningress: [{}]\nlog: {value: 5}",
            "spec.log.value",
            "must be a string",
        ),
        (
            CNP,
            "endpointSelector: {}\ningress: [{}]\nlog: {value: abcdefghijklmnopqrstuvwxyz1234567}",
            "spec.log.value",
            "is longer than 32",
        ),
        (CNP, "endpointSelector: {}\ningress: [{}]\ndescription: 5", "spec.description", "must be a string"),
        (
            CNP,
            "endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: other}}\ningress: [{}]",
            "spec.endpointSelector",
            "can select only endpoints of the policy's own namespace",
        ),
        (
            CCNP,
            "nodeSelector: {}\ningress: [{toPorts: [{ports: [" + P80 + "], rules: {http: [{}]}}]}]",
            "spec.ingress[0].toPorts[0]",
            "a policy on nodes supports no L7",
        ),
        (
            CCNP,
            "nodeSelector: {}\negress: [{toPorts: [{ports: [" + P80 + "], rules: {kafka: [{}]}}]}]",
            "spec.egress[0].toPorts[0]",
            "a policy on nodes supports no L7",
        ),
    ],
)
def test_spec(kind: tuple[str, str], spec: str, path: str, message: str) -> None:
    refused(document(kind, spec), path, message)


@pytest.mark.parametrize(
    ("selector", "path", "message"),
    [
        ("{matchLabels: {a: no}}", "matchLabels.a", "must be a string, not a boolean (false)"),
        ("{matchLabels: {a: 1}}", "matchLabels.a", "must be a string, not a number (1)"),
        ("{matchLabels: {a: null}}", "matchLabels.a", "must be a string, not null"),
        ("{matchLabels: {a: '-x'}}", "matchLabels.a", '"-x" is not a valid label value'),
        ("{matchLabels: {'a b': x}}", 'matchLabels["a b"]', "is not a valid label key"),
        ("{matchLabels: {'A_/b': x}}", 'matchLabels["A_/b"]', "the part of a label key before the slash"),
        ("{matchLabels: {'': x}}", 'matchLabels[""]', "is not a valid label key"),
        ("{matchLabels: {'cidr:10.0.0.0/8': ''}}", 'matchLabels["cidr:10.0.0.0/8"]', 'label source "cidr" is not known'),
        ("{matchLabels: {a: x, 'k8s:a': y}}", 'matchLabels["k8s:a"]', 'label "a" is given twice'),
        ("{matchLabels: [a]}", "matchLabels", "must be a mapping, not a list"),
        ("{matchlabels: {a: x}}", "matchlabels", "unknown field"),
        ("{matchExpressions: [{operator: Exists}]}", "matchExpressions[0].key", "is required"),
        ("{matchExpressions: [{key: a}]}", "matchExpressions[0].operator", "is required"),
        ("{matchExpressions: [{key: a, operator: Is, values: [x]}]}", "matchExpressions[0].operator", 'unknown value "Is"'),
        ("{matchExpressions: [{key: a, operator: In}]}", "matchExpressions[0]", "operator In needs values"),
        ("{matchExpressions: [{key: a, operator: NotIn, values: []}]}", "matchExpressions[0]", "operator NotIn needs values"),
        (
            "{matchExpressions: [{key: a, operator: Exists, values: [x]}]}",
            "matchExpressions[0]",
            "operator Exists takes no values",
        ),
    ],
)
def test_selector(selector: str, path: str, message: str) -> None:
    refused(document(CNP, f"endpointSelector: {selector}\ningress: [{{}}]"), f"spec.endpointSelector.{path}", message)
    peer = f"endpointSelector: {{}}\ningress: [{{fromEndpoints: [{selector}]}}]"
    refused(document(CNP, peer), f"spec.ingress[0].fromEndpoints[0].{path}", message)


@pytest.mark.parametrize(
    ("rule", "path", "message"),
    [
        ("{toEndpoints: [{}], toCIDR: [10.0.0.0/8]}", "", "combining toEndpoints and toCIDR"),
        ("{toCIDR: [10.0.0.0/8], toCIDRSet: [{cidr: 10.0.0.0/8}]}", "", "combining toCIDR and toCIDRSet"),
        ("{toServices: [{k8sService: {serviceName: a}}], toEndpoints: [{}]}", "", "combining toEndpoints and toServices"),
        ("{toFQDNs: [{matchName: a.io}], toEntities: [world]}", "", "combining toEntities and toFQDNs"),
        ("{toEntities: [internet]}", ".toEntities[0]", 'unknown value "internet"'),
        ("{toEntities: world}", ".toEntities", "must be a list, not a string"),
        ("{toCIDR: ['']}", ".toCIDR[0]", "must not be empty"),
        ("{toCIDR: [10.0.0.0/33]}", ".toCIDR[0]", '"10.0.0.0/33" is not an address prefix'),
        ("{toCIDR: [10.0.0.0/255.0.0.0]}", ".toCIDR[0]", '"10.0.0.0/255.0.0.0" is not an address prefix'),
        ("{toCIDR: [10.0.0.0/08]}", ".toCIDR[0]", '"10.0.0.0/08" is not an address prefix'),
        ("{toCIDR: [10.0.0]}", ".toCIDR[0]", '"10.0.0" is not an address prefix'),
        ("{toCIDR: ['fe80::1%eth0/64']}", ".toCIDR[0]", '"fe80::1%eth0/64" is not an address prefix'),
        ("{toCIDR: ['::ffff:10.0.0.0/104']}", ".toCIDR[0]", '"::ffff:10.0.0.0/104" is an IPv4 prefix in IPv6 form'),
        ("{toCIDRSet: [{cidr: 10.0.0.1}]}", ".toCIDRSet[0].cidr", '"10.0.0.1" has no prefix length'),
        ("{toCIDRSet: [{}]}", ".toCIDRSet[0]", "needs exactly one of cidr, cidrGroupRef"),
        ("{toCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: a}]}", ".toCIDRSet[0]", "needs exactly one of cidr, cidrGroupRef"),
        ("{toCIDRSet: [{cidrGroupRef: A_b}]}", ".toCIDRSet[0].cidrGroupRef", '"A_b" is not a valid name'),
        (
            "{toCIDRSet: [{cidr: 10.0.0.0/8, except: [192.168.0.0/16]}]}",
            ".toCIDRSet[0].except[0]",
            "192.168.0.0/16 does not lie inside",
        ),
        ("{toCIDRSet: [{cidr: 10.0.0.0/8, except: ['fd00::/8']}]}", ".toCIDRSet[0].except[0]", "fd00::/8 does not lie inside"),
        ("{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/7]}]}", ".toCIDRSet[0].except[0]", "10.0.0.0/7 does not lie inside"),
        ("{toServices: [{}]}", ".toServices[0]", "needs exactly one of k8sService and k8sServiceSelector"),
        ("{toServices: [{k8sService: {namespace: a}}]}", ".toServices[0].k8sService.serviceName", "is required"),
        ("{toServices: [{k8sServiceSelector: {namespace: a}}]}", ".toServices[0].k8sServiceSelector.selector", "is required"),
        ("{toFQDNs: [{}]}", ".toFQDNs[0]", "needs exactly one of matchName and matchPattern"),
        ("{toFQDNs: [{matchName: a.io, matchPattern: '*'}]}", ".toFQDNs[0]", "needs exactly one of matchName and matchPattern"),
        ("{toFQDNs: [{matchName: ''}]}", ".toFQDNs[0].matchName", "must not be empty"),
        ("{toFQDNs: [{matchName: '*.io'}]}", ".toFQDNs[0].matchName", '"*.io" is not a valid domain name'),
        ("{toFQDNs: [{matchName: .a.io}]}", ".toFQDNs[0].matchName", '".a.io" is not a valid domain name'),
        ("{toFQDNs: [{matchPattern: a..io}]}", ".toFQDNs[0].matchPattern", '"a..io" is not a valid domain pattern'),
        ("{toFQDNs: [{matchPattern: '[a-z].io'}]}", ".toFQDNs[0].matchPattern", '"[a-z].io" is not a valid domain pattern'),
        ("{toFQDNs: [{matchName: " + "a." * 128 + "}]}", ".toFQDNs[0].matchName", "is longer than 255"),
        ("{toFQDNs: [{matchName: a.io, except: [b.io]}]}", ".toFQDNs[0].except", "unknown field"),
        ("{toGroups: [{aws: {}}]}", ".toGroups", "cloud provider groups are not supported"),
        ("{toRequires: [{}]}", ".toRequires", "toRequires was removed"),
        ("{fromEndpoints: [{}]}", ".fromEndpoints", "unknown field"),
        (
            "{toEntities: [world], authentication: {mode: required}}",
            ".authentication.mode",
            "mutual authentication is not supported",
        ),
        ("{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: '80'}]}]}", "", "icmps and toPorts exclude each other"),
        ("{icmps: [{}]}", ".icmps[0]", "needs at least one entry in fields"),
        ("{icmps: [{fields: [{}]}]}", ".icmps[0].fields[0].type", "is required"),
        ("{icmps: [{fields: [{type: 256}]}]}", ".icmps[0].fields[0].type", "must be between 0 and 255, not 256"),
        ("{icmps: [{fields: [{type: Ping}]}]}", ".icmps[0].fields[0].type", 'unknown ICMP type "Ping"'),
        ("{icmps: [{fields: [{type: PacketTooBig}]}]}", ".icmps[0].fields[0].type", 'unknown ICMP type "PacketTooBig"'),
        ("{icmps: [{fields: [{type: 8, family: IPv5}]}]}", ".icmps[0].fields[0].family", 'unknown value "IPv5"'),
        ("{icmps: [{fields: [" + "{type: 8}," * 41 + "]}]}", ".icmps[0].fields", "has 41 items; the limit is 40"),
    ],
)
def test_egress_rule(rule: str, path: str, message: str) -> None:
    refused(document(CNP, f"endpointSelector: {{}}\negress: [{rule}]"), f"spec.egress[0]{path}", message)


@pytest.mark.parametrize(
    ("rule", "path", "message"),
    [
        ("{fromEndpoints: [{}], fromEntities: [world]}", "", "combining fromEndpoints and fromEntities"),
        ("{fromCIDR: [10.0.0.0/8], fromNodes: [{}]}", "", "combining fromCIDR and fromNodes"),
        ("{toServices: [{k8sService: {serviceName: a}}]}", ".toServices", "unknown field"),
        ("{toFQDNs: [{matchName: a.io}]}", ".toFQDNs", "unknown field"),
        (
            "{toPorts: [{ports: [" + P53 + "], rules: {dns: [{matchPattern: '*'}]}}]}",
            ".toPorts[0]",
            "DNS rules are not supported on ingress",
        ),
    ],
)
def test_ingress_rule(rule: str, path: str, message: str) -> None:
    refused(document(CNP, f"endpointSelector: {{}}\ningress: [{rule}]"), f"spec.ingress[0]{path}", message)


@pytest.mark.parametrize(
    ("field", "rule", "path", "message"),
    [
        ("egressDeny", "{toFQDNs: [{matchName: a.io}]}", ".toFQDNs", "names can't be denied"),
        ("egressDeny", "{toEntities: [world], authentication: {mode: disabled}}", ".authentication", "unknown field"),
        (
            "ingressDeny",
            "{toPorts: [{ports: [" + P80 + "], rules: {http: [{}]}}]}",
            ".toPorts[0].rules",
            "a deny rule can't look into L7",
        ),
        ("ingressDeny", "{toPorts: [{ports: [" + P80 + "], serverNames: [a.io]}]}", ".toPorts[0].serverNames", "unknown field"),
    ],
)
def test_deny_rule(field: str, rule: str, path: str, message: str) -> None:
    refused(document(CNP, f"endpointSelector: {{}}\n{field}: [{rule}]"), f"spec.{field}[0]{path}", message)


@pytest.mark.parametrize(
    ("item", "path", "message"),
    [
        ("{}", "", "needs at least one port"),
        ("{ports: []}", "", "needs at least one port"),
        ("{ports: {}}", ".ports", "must be a list"),
        ("{ports: [" + (P80 + ",") * 41 + "]}", ".ports", "has 41 items; the limit is 40"),
        ("{ports: [{protocol: TCP}]}", ".ports[0].port", "is required"),
        ("{ports: [{port: 80}]}", ".ports[0].port", "must be a string, not a number (80)"),
        ("{ports: [{port: ''}]}", ".ports[0].port", "must not be empty"),
        ("{ports: [{port: '65536'}]}", ".ports[0].port", "must be between 0 and 65535"),
        ("{ports: [{port: '080'}]}", ".ports[0].port", '"080" is ambiguous'),
        ("{ports: [{port: '-1'}]}", ".ports[0].port", '"-1" is neither a port number nor a port name'),
        ("{ports: [{port: 80-90}]}", ".ports[0].port", '"80-90" is neither'),
        ("{ports: [{port: '*'}]}", ".ports[0].port", '"*" is neither'),
        ("{ports: [{port: a-name-that-is-too-long}]}", ".ports[0].port", "a port name has at most 15"),
        ("{ports: [{port: '80', protocol: HTTP}]}", ".ports[0].protocol", 'unknown value "HTTP"'),
        ("{ports: [{port: '8', protocol: ICMP}]}", ".ports[0].protocol", "ICMP has types, not ports"),
        ("{ports: [{port: '8', protocol: GRE}]}", ".ports[0].port", "GRE has no ports"),
        ("{ports: [{port: '80', endPort: 79}]}", ".ports[0].endPort", "endPort 79 lies below port 80"),
        ("{ports: [{port: '80', endPort: '90'}]}", ".ports[0].endPort", "must be an integer"),
        ("{ports: [{port: '80', endPort: 65536}]}", ".ports[0].endPort", "must be between 0 and 65535"),
        ("{ports: [{port: http, endPort: 90}]}", ".ports[0].endPort", "endPort needs a port number"),
        ("{ports: [{port: '0', endPort: 90}]}", ".ports[0].endPort", "endPort needs a port number"),
        ("{ports: [" + P80 + "], listener: {name: x}}", ".listener", "custom Envoy listeners are not supported"),
        ("{ports: [" + P80 + "], serverNames: ['']}", ".serverNames[0]", "must not be empty"),
        ("{ports: [" + P80 + "], serverNames: ['a..b']}", ".serverNames[0]", '"a..b" is not a server name'),
        ("{ports: [" + P80 + "], serverNames: ['a.b.']}", ".serverNames[0]", '"a.b." is not a server name'),
        ("{ports: [" + P80 + "], serverNames: ['a[0].b']}", ".serverNames[0]", '"a[0].b" is not a server name'),
        ("{ports: [" + P80 + "], serverNames: ['***.b']}", ".serverNames[0]", '"***.b" has "**" inside a label'),
        ("{ports: [" + P80 + "], serverNames: ['a**.b']}", ".serverNames[0]", '"a**.b" has "**" inside a label'),
        ("{ports: [{port: '443'}], serverNames: [a.io]}", "", "serverNames can only apply to TCP, not ANY"),
        ("{ports: [{port: '0', protocol: TCP}], serverNames: [a.io]}", "", "L7 rules can not be used when a port is 0"),
        (
            "{ports: [" + P80 + "], serverNames: [a.io], rules: {http: [{}]}}",
            "",
            "serverNames with L7 rules needs terminatingTLS",
        ),
        ("{ports: [" + P80 + "], terminatingTLS: {}}", ".terminatingTLS.secret", "is required"),
        ("{ports: [" + P80 + "], terminatingTLS: {secret: {}}}", ".terminatingTLS.secret.name", "is required"),
        (
            "{ports: [" + P80 + "], terminatingTLS: {secret: {name: s}, trustedCA: 'a/b'}}",
            ".terminatingTLS.trustedCA",
            '"a/b" is not a valid key',
        ),
        ("{ports: [{port: '443'}], " + TLS + "}", "", "terminatingTLS can only apply to TCP"),
        (
            "{ports: [" + P80 + "], rules: {http: [{}], dns: [{matchPattern: '*'}]}}",
            ".rules",
            "one port can't speak dns and http",
        ),
        ("{ports: [" + P80 + "], rules: {http: [{}], kafka: []}}", ".rules", "one port can't speak http and kafka"),
        (
            "{ports: [" + P80 + "], rules: {l7proto: r2d2, l7: [{cmd: READ}]}}",
            ".rules.l7proto",
            "generic L7 parsers are not supported",
        ),
        ("{ports: [" + P80 + "], rules: {httpDeny: [{}]}}", ".rules.httpDeny", "unknown field"),
        ("{ports: [" + P80 + "], rules: {grpc: [{}]}}", ".rules.grpc", "unknown field"),
        ("{ports: [{port: '80', protocol: UDP}], rules: {http: [{}]}}", "", "L7 rules can only apply to TCP, not UDP"),
        ("{ports: [{port: '80'}], rules: {http: [{}]}}", "", "L7 rules can only apply to TCP, not ANY"),
        ("{ports: [{port: '80'}], rules: {kafka: [{}]}}", "", "L7 rules can only apply to TCP, not ANY"),
        ("{ports: [{port: '0', protocol: TCP}], rules: {http: [{}]}}", "", "L7 rules can not be used when a port is 0"),
        ("{ports: [{port: '0'}], rules: {dns: [{matchPattern: '*'}]}}", "", "L7 rules can not be used when a port is 0"),
        ("{ports: [{port: '53', endPort: 54}], rules: {dns: [{matchPattern: '*'}]}}", "", "DNS rules do not support port ranges"),
        (
            "{ports: [{port: '53', protocol: SCTP}], rules: {dns: [{matchPattern: '*'}]}}",
            "",
            "DNS rules need protocol UDP, TCP or ANY",
        ),
        ("{rules: {dns: [{matchPattern: '*'}]}}", "", "needs at least one port"),
        ("{ports: [" + P53 + "], rules: {dns: [{}]}}", ".rules.dns[0]", "needs exactly one of matchName and matchPattern"),
        ("{ports: [" + P53 + "], rules: {dns: [{matchName: a.io, matchPattern: '*'}]}}", ".rules.dns[0]", "needs exactly one of"),
        (
            "{ports: [" + P53 + "], rules: {dns: [{matchName: a.io, queryTypes: [A]}]}}",
            ".rules.dns[0].queryTypes",
            "unknown field",
        ),
    ],
)
def test_port_item(item: str, path: str, message: str) -> None:
    refused(
        document(CNP, f"endpointSelector: {{}}\negress: [{{toPorts: [{item}]}}]"), f"spec.egress[0].toPorts[0]{path}", message
    )


@pytest.mark.parametrize(
    ("rule", "path", "message"),
    [
        ("null", "", "must be a mapping, not null"),
        ("{pathh: /a}", ".pathh", "unknown field"),
        ("{path: '('}", ".path", "is not a regular expression that RE2 takes: missing )"),
        ("{path: '(?!admin).*'}", ".path", "is not a regular expression that RE2 takes: invalid perl operator"),
        ("{path: '(a)\\1'}", ".path", "is not a regular expression that RE2 takes: invalid escape sequence"),
        ("{method: '*'}", ".method", "is not a regular expression that RE2 takes: no argument for repetition"),
        ("{host: '['}", ".host", "is not a regular expression that RE2 takes: missing ]"),
        ("{path: {prefix: /a}}", ".path", "must be a string, not a mapping"),
        ("{path: 5}", ".path", "must be a string, not a number (5)"),
        ("{query: [{name: a}]}", ".query", "unknown field"),
        ("{headers: ['']}", ".headers[0]", "must not be empty"),
        ("{headers: ['Name:value']}", ".headers[0]", '"Name:value" is not a header name'),
        ("{headers: ['Name:']}", ".headers[0]", '"Name:" is not a header name'),
        ("{headers: ['Name: ']}", ".headers[0]", "has a value that is empty or begins or ends with a space"),
        ("{headers: ['Name:  x']}", ".headers[0]", "has a value that is empty or begins or ends with a space"),
        ("{headers: [':path /a']}", ".headers[0]", '":path" is not matched as a header'),
        ("{headers: ['Host: a']}", ".headers[0]", '"Host" is not matched as a header'),
        ('{headers: ["a: b\\r\\nc: d"]}', ".headers[0]", "must not hold control"),
        ("{headerMatches: [{value: x}]}", ".headerMatches[0].name", "is required"),
        ("{headerMatches: [{name: ''}]}", ".headerMatches[0].name", "must not be empty"),
        ("{headerMatches: [{name: ':authority'}]}", ".headerMatches[0].name", '":authority" is not matched as a header'),
        ("{headerMatches: [{name: 'a b'}]}", ".headerMatches[0].name", '"a b" is not a header name'),
        ("{headerMatches: [{name: a, mismatch: DENY}]}", ".headerMatches[0].mismatch", 'unknown value "DENY"'),
        ("{headerMatches: [{name: a, mismatch: ADD}]}", ".headerMatches[0]", "mismatch ADD needs a value or a secret"),
        ("{headerMatches: [{name: a, secret: {}}]}", ".headerMatches[0].secret.name", "is required"),
        ("{headerMatches: [{name: a, secret: {name: s, key: k}}]}", ".headerMatches[0].secret.key", "unknown field"),
        ("{headerMatches: [{name: a, invert: true}]}", ".headerMatches[0].invert", "unknown field"),
        ("{headerMatches: [{name: a, value: {regex: b}}]}", ".headerMatches[0].value", "must be a string, not a mapping"),
    ],
)
def test_http_rule(rule: str, path: str, message: str) -> None:
    spec = f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{P80}], rules: {{http: [{rule}]}}}}]}}]"
    refused(document(CNP, spec), f"spec.ingress[0].toPorts[0].rules.http[0]{path}", message)


@pytest.mark.parametrize(
    ("rule", "path", "message"),
    [
        ("{role: produce, apiKey: fetch}", "", "role and apiKey exclude each other"),
        ("{role: admin}", ".role", 'unknown value "admin"'),
        ("{apiKey: producer}", ".apiKey", 'unknown Kafka API key "producer"'),
        ("{apiVersion: 3}", ".apiVersion", "must be a string, not a number (3)"),
        ("{apiVersion: '32768'}", ".apiVersion", '"32768" is not an API version'),
        ("{apiVersion: '-1'}", ".apiVersion", '"-1" is not an API version'),
        ("{topic: 'a b'}", ".topic", '"a b" is not a topic name'),
        ("{topic: 'a\\b'}", ".topic", '"a\\b" is not a topic name'),
        ("{topic: " + "a" * 256 + "}", ".topic", '"aaa'),
        ("{topicPrefix: a}", ".topicPrefix", "unknown field"),
        ("{group: g}", ".group", "unknown field"),
    ],
)
def test_kafka_rule(rule: str, path: str, message: str) -> None:
    spec = f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{P80}], rules: {{kafka: [{rule}]}}}}]}}]"
    refused(document(CNP, spec), f"spec.ingress[0].toPorts[0].rules.kafka[0]{path}", message)


def test_clusterwide_policy_must_name_the_namespace_of_secrets() -> None:
    spec = f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{P80}], {TLS}}}]}}]"
    refused(document(CCNP, spec), "spec.ingress[0].toPorts[0].terminatingTLS.secret", "needs a namespace")


def test_expression_beyond_envoys_program_size_is_refused() -> None:
    spec = "endpointSelector: {}\ningress: [{toPorts: [{ports: [" + P80 + "], rules: {http: [{path: '%s'}]}}]}]"
    refused(
        document(CNP, spec % "[a-z]{1000}"),
        "spec.ingress[0].toPorts[0].rules.http[0].path",
        "compiles to ",
    )


def test_program_size_is_the_number_that_envoy_compares() -> None:
    """A literal of n characters compiles to n instructions and a few more; the limit is on that number."""
    import re2

    from l7filters.documents.regex import regex_problem

    fits, over = "/" + "a" * (RE2_PROGRAM_SIZE_MAX - 5), "/" + "a" * (RE2_PROGRAM_SIZE_MAX + 5)
    assert re2.compile(fits).programsize <= RE2_PROGRAM_SIZE_MAX < re2.compile(over).programsize
    assert regex_problem(fits) is None
    assert regex_problem(over) is not None


@pytest.mark.parametrize(
    ("head", "path", "message"),
    [
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy}", "metadata", "is required"),
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {}}", "metadata.name", "is required"),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: A}}",
            "metadata.name",
            '"A" is not a valid name',
        ),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a, namespace: b.c}}",
            "metadata.namespace",
            '"b.c" is not a valid namespace',
        ),
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}}", "", "needs spec or specs"),
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, specs: []}", "", "specs is empty"),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, spec: null}",
            "spec",
            "must be a mapping, not null",
        ),
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, spek: {}}", "spek", "unknown field"),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: a, namespace: b}}",
            "metadata.namespace",
            "this kind belongs to no namespace",
        ),
        ("{apiVersion: cilium.io/v3, kind: CiliumNetworkPolicy}", "apiVersion", 'unknown apiVersion "cilium.io/v3"'),
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolice}", "kind", 'unknown kind "CiliumNetworkPolice"'),
        ("{apiVersion: v1, kind: List, items: []}", "kind", "a List is not supported"),
        (
            "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy}",
            "kind",
            "AuthorizationPolicy of security.istio.io/v1 is not supported yet",
        ),
        ("{kind: CiliumNetworkPolicy}", "apiVersion", "is required"),
        ("{apiVersion: 2, kind: CiliumNetworkPolicy}", "apiVersion", "must be a string, not a number (2)"),
        ("[]", "", "a document must be a mapping"),
        ("hello", "", "a document must be a mapping"),
    ],
)
def test_head(head: str, path: str, message: str) -> None:
    refused(head, path, message)


def times(count: int, item: str) -> str:
    return "[" + ", ".join([item] * count) + "]"


@pytest.mark.parametrize(
    ("spec", "path", "limit"),
    [
        ("ingress: " + times(1025, "{}"), "spec.ingress", 1024),
        ("ingress: [{fromEntities: " + times(4097, "all") + "}]", "spec.ingress[0].fromEntities", 4096),
        ("ingress: [{toPorts: " + times(129, "{}") + "}]", "spec.ingress[0].toPorts", 128),
        (
            "ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: " + times(1025, "10.1.0.0/16") + "}]}]",
            "spec.ingress[0].fromCIDRSet[0].except",
            1024,
        ),
        (
            "ingress: [{toPorts: [{ports: [" + P80 + "], serverNames: " + times(257, "a.io") + "}]}]",
            "spec.ingress[0].toPorts[0].serverNames",
            256,
        ),
        (
            "ingress: [{toPorts: [{ports: [" + P80 + "], rules: {http: " + times(1025, "{}") + "}}]}]",
            "spec.ingress[0].toPorts[0].rules.http",
            1024,
        ),
        (
            "ingress: [{toPorts: [{ports: [" + P80 + "], rules: {http: [{headers: " + times(65, "A") + "}]}}]}]",
            "spec.ingress[0].toPorts[0].rules.http[0].headers",
            64,
        ),
        (
            "ingress: [{fromEndpoints: [{matchExpressions: [{key: a, operator: In, values: " + times(1025, "x") + "}]}]}]",
            "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values",
            1024,
        ),
    ],
)
def test_lists_are_limited(spec: str, path: str, limit: int) -> None:
    refused(document(CNP, f"endpointSelector: {{}}\n{spec}"), path, f"has {limit + 1} items; the limit is {limit}")
