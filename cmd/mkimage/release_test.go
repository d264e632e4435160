package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"lazaret/image/format"
	"lazaret/image/pkg"
	"lazaret/packaging"
)

// TestMakeDeb: the package is made of programs, of this repository's documentation and of
// completions that know their program's name; nothing else is left behind.
func TestMakeDeb(t *testing.T) {
	bin, out := t.TempDir(), t.TempDir()
	for _, name := range []string{"lazaretd", "lazaretctl", "lazaret"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	path, err := makeDeb(pkg.Gateway{Version: "1.2.3", Architecture: "amd64", Packaging: packaging.Files}, bin, "../..", out)
	if err != nil || filepath.Base(path) != "lazaret_1.2.3_amd64.deb" {
		t.Fatal(path, err)
	}
	if list, err := os.ReadDir(out); err != nil || len(list) != 1 {
		t.Error("left behind:", list, err)
	}
	if err := os.Remove(filepath.Join(bin, "lazaret")); err != nil {
		t.Fatal(err)
	}
	if _, err := makeDeb(pkg.Gateway{Version: "1.2.4", Architecture: "amd64", Packaging: packaging.Files}, bin, "../..", out); err == nil {
		t.Error("a package without a program was made")
	}
	if list, err := os.ReadDir(out); err != nil || len(list) != 1 {
		t.Error("left behind after an error:", list, err)
	}
}

// TestConvert: every form is made beside the disk.
func TestConvert(t *testing.T) {
	raw := filepath.Join(t.TempDir(), "lazaret.raw")
	if err := os.WriteFile(raw, make([]byte, format.MiB), 0o600); err != nil {
		t.Fatal(err)
	}
	var kinds []format.Kind
	err := convert(t.Context(), raw, 4*format.MiB, "1.2.3", func(kind format.Kind, path string, _ time.Duration, size int64) {
		if at, err := os.Stat(path); err != nil || at.Size() != size || path != filepath.Join(filepath.Dir(raw), "lazaret."+string(kind)) {
			t.Error(path, size, err)
		}
		kinds = append(kinds, kind)
	})
	if err != nil || len(kinds) != len(format.Kinds) {
		t.Error(kinds, err)
	}
}
