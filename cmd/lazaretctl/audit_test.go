package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lazaret/internal/audit"
)

// logOf writes a log of n entries and returns its head.
func logOf(t *testing.T, dir string, n int, c audit.Config) audit.Head {
	t.Helper()
	c.Dir, c.SegmentSize = dir, 400
	chain, err := audit.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Close()
	for range n {
		if _, err := chain.Append(audit.Entry{ID: "x", Action: "device.block", Time: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	return chain.Head()
}

func segmentsOf(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "segment-*"))
	if err != nil || len(names) < 3 {
		t.Fatalf("%d segments, %v", len(names), err)
	}
	return names
}

// TestAuditVerify: the command fails unless the log is whole, and says what it saw.
func TestAuditVerify(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string, head *audit.Head)
		fails string // part of the error; empty: none
		says  string // part of what is printed
	}{
		{"whole", func(*testing.T, string, *audit.Head) {}, "", "whole: 10 entries"},
		{"empty", func(t *testing.T, dir string, _ *audit.Head) {
			for _, n := range segmentsOf(t, dir) {
				os.Remove(n)
			}
		}, "no segment", ""},
		{"without its beginning", func(t *testing.T, dir string, _ *audit.Head) {
			for _, n := range segmentsOf(t, dir)[:2] {
				os.Remove(n)
			}
		}, "segments 1 to 2 are missing", ""},
		{"torn", func(t *testing.T, dir string, _ *audit.Head) {
			names := segmentsOf(t, dir)
			f, err := os.OpenFile(names[len(names)-1], os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString(`{"v":1,`); err != nil {
				t.Fatal(err)
			}
		}, "", "torn: "},
		{"no head in the file", func(_ *testing.T, _ string, head *audit.Head) { *head = audit.Head{} }, "there is none in it", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			head := logOf(t, dir, 10, audit.Config{})
			c.spoil(t, dir, &head)
			text, err := json.Marshal(head)
			if err != nil {
				t.Fatal(err)
			}
			headFile, archive := filepath.Join(t.TempDir(), "head.json"), filepath.Join(t.TempDir(), "log.tar")
			if err := os.WriteFile(headFile, text, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Create(archive)
			if err != nil {
				t.Fatal(err)
			}
			if err := audit.Export(dir, f); err != nil {
				t.Fatal(err)
			}
			f.Close()
			for _, at := range []string{dir, archive} {
				var out bytes.Buffer
				command := root()
				command.SetOut(&out)
				command.SetArgs([]string{"audit", "verify", at, "--head", headFile})
				err := command.ExecuteContext(t.Context())
				if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%s: error %v, want one with %q", filepath.Base(at), err, c.fails)
				}
				if !strings.Contains(out.String(), c.says) || err != nil && strings.Contains(out.String(), "whole:") {
					t.Errorf("%s: printed %q, want %q in it", filepath.Base(at), out.String(), c.says)
				}
			}
		})
	}
}

// TestAuditVerifyShowsBreaks: a segment begun by force is chained well, and says itself
// that something is missing.
func TestAuditVerifyShowsBreaks(t *testing.T) {
	dir := t.TempDir()
	head := logOf(t, dir, 10, audit.Config{})
	names := segmentsOf(t, dir)
	last := names[len(names)-1]
	text, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(last, int64(bytes.IndexByte(text, '\n')+1)); err != nil { // the tail is cut at the end of a line
		t.Fatal(err)
	}
	logOf(t, dir, 1, audit.Config{Head: head, AcceptBreak: true})
	for _, flag := range []string{"--json=false", "--json"} {
		var out bytes.Buffer
		command := root()
		command.SetOut(&out)
		command.SetArgs([]string{"audit", "verify", dir, flag})
		if err := command.ExecuteContext(t.Context()); err == nil {
			t.Errorf("%s: no error, printed %q", flag, out.String())
		}
		if !strings.Contains(out.String(), "the tail is cut") || strings.Contains(out.String(), "whole:") {
			t.Errorf("%s: printed %q", flag, out.String())
		}
	}
}
