package strict

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestGroups: a name that a group does not hold fails, at every depth, and says what there is;
// what holds nothing, and what does something by itself, stays as it is.
func TestGroups(t *testing.T) {
	for args, want := range map[string]string{
		"":              "",
		"inner":         "",
		"inner reboot":  "",
		"inner rebot":   `unknown command "rebot" for "outer inner"; did you mean reboot?`,
		"inner restart": `unknown command "restart" for "outer inner"; did you mean reboot?`,
		"inner xyzzy":   `unknown command "xyzzy" for "outer inner"; it has deep, reboot`,
		"inner deep x":  `unknown command "x" for "outer inner deep"; it has one`,
		"doer anything": "",
		"xyzzy":         `unknown command "xyzzy" for "outer"`,
	} {
		does := func(*cobra.Command, []string) error { return nil }
		outer := &cobra.Command{Use: "outer", SilenceErrors: true, SilenceUsage: true}
		inner, deep, doer := &cobra.Command{Use: "inner"}, &cobra.Command{Use: "deep"}, &cobra.Command{Use: "doer", Args: cobra.ArbitraryArgs, RunE: does}
		outer.AddCommand(inner, doer)
		doer.AddCommand(&cobra.Command{Use: "more", RunE: does})
		inner.AddCommand(deep, &cobra.Command{Use: "reboot", SuggestFor: []string{"restart"}, RunE: does}, &cobra.Command{Use: "hidden", Hidden: true, RunE: does})
		deep.AddCommand(&cobra.Command{Use: "one", RunE: does})
		Groups(outer)
		outer.SetArgs(strings.Fields(args))
		outer.SetOut(io.Discard)
		got := ""
		if err := outer.Execute(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}
