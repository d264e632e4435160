package posture

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"lazaret/internal/testneed"
)

const childVariable = "LAZARET_POSTURE_CHILD"

// TestFirewall sets rulesets with nft in a namespace of its own and asks the kernel.
func TestFirewall(t *testing.T) {
	if os.Getenv(childVariable) == "" {
		testneed.Program(t, "nft")
		testneed.Namespaces(t)
		c := exec.Command("/proc/self/exe", "-test.v", "-test.count=1", "-test.run=^TestFirewall$")
		c.Env = append(os.Environ(), childVariable+"=1")
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			Pdeathsig:   syscall.SIGKILL,
		}
		if out, err := c.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestFirewall")) {
			t.Fatalf("in a namespace: %v\n%s", err, out)
		}
		return
	}
	nft := testneed.Program(t, "nft")
	for _, c := range []struct{ name, rules, want string }{
		{"none", "", "false"},
		{"policy drop", "table inet f { chain in { type filter hook input priority 0; policy drop; ct state established accept; } }", "true"},
		{"policy accept", "table inet f { chain in { type filter hook input priority 0; policy accept; tcp dport 23 drop; } }", "false"},
		{"as firewalld ends", "table inet f { chain in { type filter hook input priority 10; policy accept; ct state { established, related } accept; iifname \"lo\" accept; ct state invalid drop; reject with icmpx admin-prohibited; } }", "true"},
		{"counted and logged drop", "table inet f { chain in { type filter hook input priority 0; iifname \"lo\" accept; counter log prefix \"x\" drop; } }", "true"},
		{"jump is no drop", "table inet f { chain d { drop; } chain in { type filter hook input priority 0; jump d; } }", "false"},
		{"IPv4 alone", "table ip f { chain in { type filter hook input priority 0; policy drop; } }", "false"},
		{"both families apart", "table ip f { chain in { type filter hook input priority 0; policy drop; } }\ntable ip6 f { chain in { type filter hook input priority 0; policy drop; } }", "true"},
		{"forwarding alone", "table inet f { chain through { type filter hook forward priority 0; policy drop; } }", "false"},
		{"bridge alone", "table bridge f { chain in { type filter hook input priority 0; policy drop; } }", "false"},
	} {
		set := exec.Command(nft, "-f", "-")
		set.Stdin = strings.NewReader("flush ruleset\n" + strings.NewReplacer("; }", ";\n}\n", "} }", "}\n}\n").Replace(c.rules) + "\n")
		if out, err := set.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, out)
		}
		if got, err := firewallOf(tree(nil))(t.Context()); err != nil || got["firewall.enabled"] != c.want {
			t.Errorf("%s: %v, %v, want %s", c.name, got, err, c.want)
		}
	}
}
