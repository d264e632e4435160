package posture

import "testing"

func TestGuarded(t *testing.T) {
	in := func(family string, drops bool) chain {
		return chain{family: family, table: "t", name: "in", input: true, drops: drops}
	}
	end := func(family string, parts ...part) rule {
		return rule{family: family, table: "t", chain: "in", parts: parts}
	}
	drop, accept, match := part{"immediate", true}, part{"immediate", false}, part{"cmp", false}
	for name, c := range map[string]struct {
		chains []chain
		rules  []rule
		want   bool
	}{
		"nothing":                      {nil, nil, false},
		"policy drop for both":         {[]chain{in("inet", true)}, nil, true},
		"policy accept":                {[]chain{in("inet", false)}, []rule{end("inet", match, drop)}, false},
		"last rule rejects":            {[]chain{in("inet", false)}, []rule{end("inet", match, accept), end("inet", part{"counter", false}, part{"log", false}, part{"reject", false})}, true},
		"last rule drops":              {[]chain{in("inet", false)}, []rule{end("inet", drop)}, true},
		"last rule drops some":         {[]chain{in("inet", false)}, []rule{end("inet", match, drop)}, false},
		"last rule accepts":            {[]chain{in("inet", false)}, []rule{end("inet", drop), end("inet", accept)}, false},
		"last rule of another table":   {[]chain{in("inet", false)}, []rule{{family: "inet", table: "u", chain: "in", parts: []part{drop}}}, false},
		"IPv4 alone":                   {[]chain{in("ip", true)}, nil, false},
		"IPv4 and IPv6 apart":          {[]chain{in("ip", true), in("ip6", false)}, []rule{end("ip6", drop)}, true},
		"drops what it forwards alone": {[]chain{{family: "inet", table: "t", name: "fwd", drops: true}}, nil, false},
	} {
		if got := guarded(c.chains, c.rules); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if facts, err := firewallFact(nil, nil, []string{"filter"}); err == nil || facts != nil {
		t.Errorf("rules that cannot be read were judged: %v", facts)
	}
	if facts, err := firewallFact(nil, nil, []string{"nat"}); err != nil || facts["firewall.enabled"] != "false" {
		t.Errorf("no firewall: %v, %v", facts, err)
	}
}
