package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEarlierFiles: what earlier versions took in the file of a gateway, it still starts
// with, and is told; for a new gateway it is refused. What it refused is refused.
func TestEarlierFiles(t *testing.T) {
	many := make([]string, 64)
	for i := range many {
		many[i] = fmt.Sprintf("%q", fmt.Sprintf("n%d.example.com", i))
	}
	base := "enroll.names = [\"gw.example.com\"]\n"
	for _, x := range []struct {
		text       string
		start, new bool
	}{
		{base, true, true},
		{"enroll.names = [" + strings.Join(many[:32], ", ") + "]\n", true, true},
		{"enroll.names = [" + strings.Join(many[:33], ", ") + "]\n", true, false},
		{"enroll.names = [" + strings.Join(many, ", ") + "]\n", true, false},
		{`enroll.names = ["gw.example.com", "_a.example.com"]`, true, false},
		{`enroll.names = ["gw.example.com", "10.1.2"]`, true, false},
		{`enroll.names = ["gw.example.com", "0.0.0.0"]`, true, false},
		{`enroll.names = ["fe80::1%eth0", "ff02::1"]`, true, false},
		{base + `api.names = ["_a.example.com"]`, true, false},
		{base + `tunnel.endpoints = ["_a.example.com:51820"]`, true, false},
		{base + `tunnel.endpoints = ["0.0.0.0:51820"]`, true, false},
		{base + `portal.name = "_portal.example.com"`, true, false},
		{base + `portal.name = "10.1.2"`, true, false},
		{`enroll.names = []`, false, false},
		{`enroll.names = ["a_b.example.com"]`, false, false},
		{`enroll.names = ["gw.example.com:443"]`, false, false},
		{`enroll.names = ["_a"]`, false, false},
		{base + `tunnel.endpoints = ["_a.example.com"]`, false, false},
		{base + `tunnel.endpoints = ["_a.example.com:0"]`, false, false},
		{base + `tunnel.endpoints = ["a b.example.com:1"]`, false, false},
		{base + `portal.name = "192.0.2.1"`, false, false},
		{base + `portal.name = "portal"`, false, false},
	} {
		path := filepath.Join(t.TempDir(), "lazaret.toml")
		if err := os.WriteFile(path, []byte(x.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path)
		if (err == nil) != x.start {
			t.Errorf("starts with %s: %v", x.text, err)
		}
		if told := len(c.Doubts) > 0; told != (x.start && !x.new) {
			t.Errorf("%s: told %v", x.text, c.Doubts)
		}
		for _, d := range c.Doubts {
			if d.Key == "" || d.Line == 0 || d.What == "" || d.Remedy == "" {
				t.Errorf("%s: told %+v", x.text, d)
			}
		}
		if c, err := Parse(path, []byte(x.text)); (err == nil) != x.new || len(c.Doubts) > 0 {
			t.Errorf("made with %s: %v", x.text, err)
		}
	}
}
