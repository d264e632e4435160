package console

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestAccountsPage holds the tables of docs/accounts.md equal to the code.
func TestAccountsPage(t *testing.T) {
	const page = "../../docs/accounts.md"
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for name, table := range map[string]string{"roles": rolesPage(), "settings": settingsPage(), "besides": besidesPage()} {
		head, rest, ok := strings.Cut(text, "<!-- begin: "+name+";")
		marker, rest, ok2 := strings.Cut(rest, "-->\n")
		old, tail, ok3 := strings.Cut(rest, "<!-- end: "+name+" -->")
		if !ok || !ok2 || !ok3 {
			t.Fatalf("%s has no place for %s", page, name)
		}
		if old != table && !*update {
			t.Errorf("the table of %s is behind the code: run go test ./internal/console -run TestAccountsPage -update", name)
		}
		text = head + "<!-- begin: " + name + ";" + marker + "-->\n" + table + "<!-- end: " + name + " -->" + tail
	}
	if *update {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func rolesPage() string {
	var b strings.Builder
	b.WriteString("| permission | lets its holder |")
	for _, r := range roles {
		fmt.Fprintf(&b, " %s |", r.name)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(roles)) + "\n")
	for _, p := range permissions {
		fmt.Fprintf(&b, "| `%s` | %s |", p.name, p.text)
		for _, r := range roles {
			mark := " "
			if slices.Contains(r.may, p.name) {
				mark = " yes "
			}
			b.WriteString(mark + "|")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// settingsPage groups the routes by what they are about.
func settingsPage() string {
	reads, writes := map[string][]string{}, map[string][]string{}
	for _, r := range (&Server{}).routes() {
		method, path, _ := strings.Cut(r.pattern, " ")
		about, _, _ := strings.Cut(strings.TrimPrefix(path, "/api/v1/"), "/")
		into := writes
		if method == "GET" {
			into = reads
		}
		if need := "`" + string(r.need) + "`"; !slices.Contains(into[about], need) {
			into[about] = append(into[about], need)
		}
		reads[about], writes[about] = reads[about], writes[about] // a line for either
	}
	var b strings.Builder
	b.WriteString("| below /api/v1 | read by | written by |\n|---|---|---|\n")
	for _, about := range slices.Sorted(maps.Keys(reads)) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", about, cmp.Or(strings.Join(reads[about], ", "), "-"), cmp.Or(strings.Join(writes[about], ", "), "-"))
	}
	return b.String()
}

func besidesPage() string {
	var b strings.Builder
	b.WriteString("| route | needs besides |\n|---|---|\n")
	for _, pattern := range slices.Sorted(maps.Keys(more)) {
		var parts []string
		for _, one := range more[pattern] {
			part := "`" + string(one.need) + "`"
			if one.when != "" {
				part += " where " + one.when
			}
			parts = append(parts, part)
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", pattern, strings.Join(parts, ", "))
	}
	return b.String()
}
