package arrows

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsNameTestsThatExist keeps what the docs cite as evidence true, and the shape of
// the requirements' table.
func TestDocsNameTestsThatExist(t *testing.T) {
	for name, least := range map[string]int{"requirements.md": 40, "security.md": 20, "names.md": 0, "running.md": 0} {
		text, err := os.ReadFile(filepath.Join("../../docs", name))
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9_]+)`").FindAllStringSubmatch(string(text), -1)
		if len(named) < least {
			t.Errorf("docs/%s names only %d tests", name, len(named))
		}
		for _, n := range named {
			if !holds(t, filepath.Join("../..", n[1]), "func "+n[2]+"(") {
				t.Errorf("docs/%s names %s.%s, which does not exist", name, n[1], n[2])
			}
		}
		for row := range strings.Lines(string(text)) {
			if regexp.MustCompile(`^\| [A-Z][0-9]+ \|`).MatchString(row) && len(strings.Split(strings.TrimSpace(row), "|")) != 5 {
				t.Errorf("row without promise or evidence: %s", row)
			}
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
