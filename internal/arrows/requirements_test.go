package arrows

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRequirementsNameTestsThatExist keeps docs/requirements.md true.
func TestRequirementsNameTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("../../docs/requirements.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9_]+)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 40 {
		t.Fatalf("only %d tests are named", len(named))
	}
	for _, n := range named {
		if !holds(t, filepath.Join("../..", n[1]), "func "+n[2]+"(") {
			t.Errorf("docs/requirements.md names %s.%s, which does not exist", n[1], n[2])
		}
	}
	for row := range strings.Lines(string(text)) {
		if regexp.MustCompile(`^\| [A-Z][0-9]+ \|`).MatchString(row) && len(strings.Split(strings.TrimSpace(row), "|")) != 5 {
			t.Errorf("row without promise or evidence: %s", row)
		}
	}
}

// holds reports whether a test file of the directory contains text.
func holds(t *testing.T, dir, text string) bool {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), text) {
			return true
		}
	}
	return false
}
