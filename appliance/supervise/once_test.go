package supervise

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProgram: a part that names a program runs that one, by the same name; others run this.
func TestProgram(t *testing.T) {
	s, _ := newSupervisor(t)
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, text, 0o755); err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{"": own, other: other} {
		p := part("once", "show")
		p.Program = given
		var out bytes.Buffer
		if err := s.Once(t.Context(), p, nil, &out); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), fmt.Sprintf("program %q\n", want)) || !strings.Contains(out.String(), "Name:\tlazaretd-once\n") {
			t.Errorf("given %q, want %q:\n%s", given, want, &out)
		}
	}
	p := part("once", "show")
	p.Program = "/nonexistent"
	if err := s.Once(t.Context(), p, nil, nil); err == nil {
		t.Error("a program that is not there was run")
	}
}

// TestOnce: one run with input, output, limits and an environment of its own.
func TestOnce(t *testing.T) {
	s, h := newSupervisor(t)
	p := part("once", "show")
	p.Files, p.Env = 64, []string{"A=b"}
	var out bytes.Buffer
	if err := s.Once(t.Context(), p, strings.NewReader("given"), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"files 64\n", "env [\"A=b\"]\n", "in \"given\"\n", "Name:\tlazaretd-once\n", `called "lazaretd-once\x00part\x00show\x00"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %s", want, &out)
		}
	}
	if h.all() != "once: shown" {
		t.Errorf("heard %q", h.all())
	}
	if err := s.Once(t.Context(), part("once", "status", "9"), nil, nil); err == nil || !strings.Contains(err.Error(), "exit status 9") {
		t.Errorf("a run that failed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Once(ctx, part("once", "silent"), nil, nil); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("a run cut short: %v", err)
	}
}
