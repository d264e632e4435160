package console

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
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
	reads, writes, abouts := map[string][]string{}, map[string][]string{}, map[string]bool{}
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
		abouts[about] = true
	}
	var b strings.Builder
	b.WriteString("| below /api/v1 | read by | written by |\n|---|---|---|\n")
	for _, about := range slices.Sorted(maps.Keys(abouts)) {
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

// TestHandlersNeedWhatIsListed reads the handlers: one that asks for a permission by way of
// any function of this package has it in its route, or in more, from which the page and the
// API's description are made.
func TestHandlersNeedWhatIsListed(t *testing.T) {
	asked := map[string]Permission{"GrantRelease": GrantRelease, "WipeDevices": WipeDevices}
	mentions := map[string][]string{} // by function: what it calls of this package, and asks for
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				mentions[fn.Name.Name] = append(mentions[fn.Name.Name], asks(fn.Body)...)
			}
		}
	}
	found := 0
	for _, r := range (&Server{}).routes() {
		name := runtime.FuncForPC(reflect.ValueOf(r.handle).Pointer()).Name()
		reached := []string{name[strings.LastIndexByte(name, '.')+1:]}
		for i := 0; i < len(reached); i++ {
			for _, next := range mentions[reached[i]] {
				if !slices.Contains(reached, next) {
					reached = append(reached, next)
				}
			}
		}
		for constant, need := range asked {
			if !slices.Contains(reached, constant) {
				continue
			}
			found++
			if r.need != need && !slices.ContainsFunc(more[r.pattern], func(b besides) bool { return b.need == need }) {
				t.Errorf("%s asks for %s, and does not say so", r.pattern, need)
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d handlers were found to ask for anything", found)
	}
}

// asks are the names that a body calls, by themselves, of the server or of whoever asks, and
// hands to those it calls.
func asks(body *ast.BlockStmt) (names []string) {
	ast.Inspect(body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch of := call.Fun.(type) {
		case *ast.Ident:
			names = append(names, of.Name)
		case *ast.SelectorExpr:
			if x, ok := of.X.(*ast.Ident); ok && (x.Name == "s" || x.Name == "who") {
				names = append(names, of.Sel.Name)
			}
		}
		for _, arg := range call.Args {
			if id, ok := arg.(*ast.Ident); ok {
				names = append(names, id.Name)
			}
		}
		return true
	})
	return names
}
