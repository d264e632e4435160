package arrows

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// idle are places that no program of the gateway links: what they do when a program starts
// costs no gateway's start.
var idle = []string{"image", "cmd/demo", "cmd/mkimage", "cmd/lazaret", "cmd/lazaretctl", "internal/posture", "internal/leak", "internal/testnet", "internal/imagetest", "internal/vm"}

// TestNothingCompiledAtInit: patterns and templates of packages are compiled when they are
// used (sync.OnceValue), as most processes use few of them.
func TestNothingCompiledAtInit(t *testing.T) {
	root, seen := "../..", 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if slices.ContainsFunc(idle, func(dir string) bool { return strings.HasPrefix(filepath.ToSlash(rel), dir+"/") }) {
			return nil
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		seen++
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok {
				for _, at := range compiled(g) {
					t.Errorf("%s: compiled when the program starts: use sync.OnceValue", files.Position(at))
				}
			}
		}
		return nil
	})
	if err != nil || seen < 100 {
		t.Fatal("looked at", seen, "files, error", err)
	}
}

// compiled are the calls in a declaration that compile something, but for those in functions.
func compiled(g *ast.GenDecl) (at []token.Pos) {
	ast.Inspect(g, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.SelectorExpr:
			if of, ok := n.X.(*ast.Ident); ok && (n.Sel.Name == "MustCompile" || n.Sel.Name == "Must" && strings.Contains(of.Name, "template")) {
				at = append(at, n.Pos())
			}
		}
		return true
	})
	return at
}
