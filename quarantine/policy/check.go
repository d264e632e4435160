package policy

import (
	"strings"

	"cel.dev/cel-go/cel"
)

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func checkNames(tree *cel.Ast, issues *cel.Issues) {}
