package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lazaret/internal/console/api"
)

const tokensPath = "/api/v1/tokens"

func tokenPath(name string) string { return tokensPath + "/" + url.PathEscape(name) }

func (s *session) token() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "API tokens, and the roles they may have"}
	c.AddCommand(s.tokenCreate(), s.tokenShow(), s.tokenDelete(), s.tokenRoles(),
		list(s, "token", tokensPath, "NAME ROLE SOURCE FOR CREATED BY EXPIRES USED STATE", func(t api.Token) []string {
			return []string{t.Name, t.Scope, dash(t.Source), selections(t.For), ago(t.Created), t.By, ago(t.Expires), ago(t.Used), t.State}
		}))
	return c
}

func (s *session) tokenCreate() *cobra.Command {
	var q api.TokenRequest
	c := &cobra.Command{Use: "create NAME", Short: "Create an API token and show it, once", Args: cobra.ExactArgs(1),
		Long: `Create an API token and show it, once.

A token has a role, or some of the role's permissions; it may be for some devices alone, and
others do not exist for it. Nobody makes a token that may do what they may not: what a token
makes is for no more than its own devices and source, and ends with it.`,
		Example: `  lazaretctl token create fleet --role report --source fleet
  lazaretctl token create desk --role helpdesk --for-profile staff --expires 90d
  lazaretctl token create lock --role operator --permissions device.read,device.command --for-platform macos
  lazaretctl token roles`,
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Name = args[0]
			t, raw, err := ask[api.Token](cmd.Context(), s, http.MethodPost, tokensPath, q)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, t.Secret) })
		}}
	f := c.Flags()
	f.StringVar(&q.Scope, "role", "report", "what it may do: see lazaretctl token roles")
	f.StringVar(&q.Scope, "scope", "report", "the same as --role")
	f.StringSliceVar(&q.Permissions, "permissions", nil, "only these of the role's")
	f.StringVar(&q.Source, "source", "", "the source it speaks for; role report needs one")
	f.StringVar(&q.Life, "expires", "", "how long it lives, like 12h or 90d (default a year; for ever where an administrator makes it for a source alone; 30d at most in strict mode)")
	f.StringSliceVar(&q.For.Ownerships, "for-ownership", nil, "only devices of these: corporate, personal")
	f.StringSliceVar(&q.For.Platforms, "for-platform", nil, "only devices of these platforms")
	f.StringSliceVar(&q.For.Profiles, "for-profile", nil, "only devices of these profiles")
	f.StringSliceVar(&q.For.Groups, "for-group", nil, "only devices of one of these groups")
	c.MarkFlagsMutuallyExclusive("role", "scope")
	_ = c.RegisterFlagCompletionFunc("source", s.complete(sourcesPath, "name"))
	_ = c.RegisterFlagCompletionFunc("for-profile", s.complete("/api/v1/profiles", "name"))
	for _, flag := range []string{"role", "scope", "permissions"} {
		_ = c.RegisterFlagCompletionFunc(flag, s.completeRole(flag == "permissions"))
	}
	return c
}

// completeRole completes the names of roles, or of permissions.
func (s *session) completeRole(permissions bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, part string) ([]string, cobra.ShellCompDirective) {
		all, _, err := ask[api.Roles](cmd.Context(), s, http.MethodGet, "/api/v1/roles", nil)
		var out []string
		if err == nil && permissions {
			before := part[:strings.LastIndex(part, ",")+1]
			for _, p := range all.Permissions {
				out = append(out, before+p.Name)
			}
		} else if err == nil {
			for _, r := range all.Roles {
				out = append(out, r.Name)
			}
		}
		return slices.DeleteFunc(out, func(v string) bool { return !strings.HasPrefix(v, part) }), cobra.ShellCompDirectiveNoFileComp
	}
}

func (s *session) tokenShow() *cobra.Command {
	return &cobra.Command{Use: "show NAME", Short: "Show a token, and what came of it", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(tokensPath, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, raw, err := ask[api.Token](cmd.Context(), s, http.MethodGet, tokenPath(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { printToken(w, t) })
		}}
}

func printToken(w io.Writer, t api.Token) {
	for _, row := range [][2]string{
		{"name", t.Name}, {"role", t.Scope}, {"may", strings.Join(t.Permissions, " ")}, {"for", selections(t.For)}, {"source", t.Source},
		{"created", ago(t.Created) + " by " + t.By}, {"came of", t.Parent}, {"expires", ago(t.Expires)}, {"used", ago(t.Used)}, {"state", t.State},
		{"takes along", strings.Join(t.Descendants, ", ")},
	} {
		if row[1] != "" {
			fmt.Fprintf(w, "%-12s %s\n", row[0], row[1])
		}
	}
}

// selections writes those that must all select a device.
func selections(all []api.Selection) string {
	parts := make([]string, len(all))
	for i, f := range all {
		parts[i] = selection(f)
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, "&")
}

// tokenDelete asks before it takes along what came of the token.
func (s *session) tokenDelete() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "delete NAME", Short: "Delete a token and all that came of it", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(tokensPath, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				t, _, err := ask[api.Token](cmd.Context(), s, http.MethodGet, tokenPath(args[0]), nil)
				if err != nil {
					return err
				}
				if err := agree(cmd, t); err != nil {
					return err
				}
			}
			gone, raw, err := ask[api.TokensDeleted](cmd.Context(), s, http.MethodDelete, tokenPath(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				for _, name := range gone.Deleted {
					fmt.Fprintln(w, "deleted token", name)
				}
			})
		}}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask, whatever goes with it")
	return c
}

// agree asks a person at a terminal whether what came of a token is to go with it.
func agree(cmd *cobra.Command, t api.Token) error {
	if len(t.Descendants) == 0 {
		return nil
	}
	with := strings.Join(t.Descendants, ", ")
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return fmt.Errorf("token %s was not deleted: %s would go with it; say --yes", t.Name, with)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "With token %s go %s.\nDelete them all? [y/N] ", t.Name, with)
	answer, err := bufio.NewReader(io.LimitReader(in, 100)).ReadString('\n')
	if err != nil || !strings.EqualFold(strings.TrimSpace(answer), "y") {
		return errors.New("nothing was deleted")
	}
	return nil
}

// tokenRoles prints what each role may do.
func (s *session) tokenRoles() *cobra.Command {
	return &cobra.Command{Use: "roles", Short: "What each role may do", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, raw, err := ask[api.Roles](cmd.Context(), s, http.MethodGet, "/api/v1/roles", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { printRoles(w, all) })
		}}
}

func printRoles(w io.Writer, all api.Roles) {
	head := []string{"PERMISSION"}
	for _, r := range all.Roles {
		head = append(head, r.Name)
	}
	rows := [][]string{}
	for _, p := range all.Permissions {
		row := []string{p.Name}
		for _, r := range all.Roles {
			mark := "-"
			if slices.Contains(r.Permissions, p.Name) {
				mark = "yes"
			}
			row = append(row, mark)
		}
		rows = append(rows, row)
	}
	grid(w, strings.Join(head, " "), rows)
	fmt.Fprintln(w)
	for _, p := range all.Permissions {
		fmt.Fprintf(w, "%-19s %s\n", p.Name, p.Text)
	}
}
