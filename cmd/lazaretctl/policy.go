package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lazaret/internal/console/api"
	"lazaret/quarantine/policy/sets"
)

const policyPath = "/api/v1/policies"

func (s *session) policy() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "Policy sets: what must be known of a device before it is released",
		Example: `  lazaretctl policy examples baseline > baseline.toml
  lazaretctl policy try -f baseline.toml
  lazaretctl policy put -f baseline.toml
  lazaretctl policy assign baseline`}
	c.AddCommand(s.policyList(), s.policyShow(), s.policyPut(), s.policyCheck(), s.policyTry(), s.policyFacts(), s.policyExamples(),
		s.policyAssign("assign", "Let a policy set take part in decisions", true),
		s.policyAssign("unassign", "Take a policy set out of all decisions", false), remove(s, "policy set", policyPath))
	return c
}

func (s *session) policyList() *cobra.Command {
	return list(s, "policy set", policyPath, "NAME VERSION ASSIGNED STIG RULES FOR TEXT", func(p api.Policy) []string {
		return []string{p.Name, fmt.Sprint(p.Version), yes(p.Assigned != nil && *p.Assigned), yes(p.STIG), fmt.Sprint(len(p.Rules)), selection(p.For), dash(p.Text)}
	})
}

// selection says whom a set is for.
func selection(f api.Selection) string {
	var parts []string
	for _, list := range [][]string{f.Ownerships, f.Platforms, f.Profiles, f.Groups} {
		if len(list) > 0 {
			parts = append(parts, strings.Join(list, "|"))
		}
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, "+")
}

func (s *session) policyShow() *cobra.Command {
	builtin := false
	c := &cobra.Command{Use: "show NAME", Short: "Show a policy set in its text form", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(policyPath, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if builtin {
				return example(cmd, args[0])
			}
			p, raw, err := ask[api.Policy](cmd.Context(), s, http.MethodGet, policyPath+"/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprint(w, p.TOML) })
		}}
	c.Flags().BoolVar(&builtin, "builtin", false, "a ready-made one, as examples lists them")
	return c
}

func (s *session) policyExamples() *cobra.Command {
	return &cobra.Command{Use: "examples [NAME]", Short: "Ready-made policy sets to start from", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.FixedCompletions(sets.Names(), cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return example(cmd, args[0])
			}
			for _, n := range sets.Names() {
				fmt.Fprintln(cmd.OutOrStdout(), n)
			}
			return nil
		}}
}

func example(cmd *cobra.Command, name string) error {
	text, ok := sets.Text(name)
	if !ok {
		return fmt.Errorf("no ready-made policy set %q: there are %s", name, strings.Join(sets.Names(), ", "))
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}

// policyFile reads a set's text form, "-" for standard input.
func policyFile(cmd *cobra.Command, path string) (string, error) {
	const most = 256 << 10
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("reading the policy set: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return "", fmt.Errorf("reading the policy set: %w", err)
	}
	if len(text) > most {
		return "", fmt.Errorf("reading the policy set: %s has more than %d bytes", path, most)
	}
	return string(text), nil
}

// checked asks the gateway what is wrong with a text. What is, is the error.
func (s *session) checked(cmd *cobra.Command, path string) (text string, out api.PolicyChecked, raw []byte, err error) {
	if text, err = policyFile(cmd, path); err != nil {
		return text, out, nil, err
	}
	out, raw, err = ask[api.PolicyChecked](cmd.Context(), s, http.MethodPost, policyPath+"/check", api.Policy{TOML: text})
	return text, out, raw, err
}

// faulty prints what is wrong with a file, in the form FILE:LINE:COLUMN: WHAT.
func faulty(w io.Writer, path string, faults []api.PolicyFault) error {
	for _, f := range faults {
		where := path
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d:%d", path, f.Line, max(f.Column, 1))
		}
		for _, part := range []string{f.Rule, f.Field} {
			if part != "" {
				where += ": " + part
			}
		}
		fmt.Fprintf(w, "%s: %s\n", where, f.What)
		if f.Remedy != "" {
			fmt.Fprintf(w, "    %s\n", f.Remedy)
		}
	}
	return fmt.Errorf("%s has %d fault(s)", path, len(faults))
}

func (s *session) policyCheck() *cobra.Command {
	var file string
	c := &cobra.Command{Use: "check -f FILE", Short: "Say what is wrong with a policy set", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, out, raw, err := s.checked(cmd, file)
			if err != nil {
				return err
			}
			if !s.json && !out.Good {
				return faulty(cmd.OutOrStdout(), file, out.Faults)
			}
			err = s.show(cmd, raw, func(w io.Writer) {
				fmt.Fprintf(w, "policy set %s is good: %d rules, for %s\n", out.Policy.Name, len(out.Policy.Rules), selection(out.Policy.For))
			})
			if err == nil && !out.Good {
				err = fmt.Errorf("%s has %d fault(s)", file, len(out.Faults))
			}
			return err
		}}
	needFile(c, &file)
	return c
}

func needFile(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "file", "f", "", "policy set in TOML, - for standard input")
	_ = c.MarkFlagRequired("file")
}

func (s *session) policyPut() *cobra.Command {
	var file string
	c := &cobra.Command{Use: "put -f FILE", Short: "Keep a policy set, new or changed", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, out, _, err := s.checked(cmd, file)
			if err != nil {
				return err
			}
			if !out.Good {
				return faulty(cmd.ErrOrStderr(), file, out.Faults)
			}
			have, err := s.policyNamed(cmd, out.Policy.Name)
			if err != nil {
				return err
			}
			return s.putPolicy(cmd, out.Policy.Name, api.Policy{TOML: text, Revision: have.Revision})
		}}
	needFile(c, &file)
	return c
}

// policyNamed finds a set; the zero one where there is none.
func (s *session) policyNamed(cmd *cobra.Command, name string) (api.Policy, error) {
	all, _, err := ask[[]api.Policy](cmd.Context(), s, http.MethodGet, policyPath, nil)
	for _, p := range all {
		if p.Name == name {
			return p, err
		}
	}
	return api.Policy{}, err
}

func (s *session) putPolicy(cmd *cobra.Command, name string, q api.Policy) error {
	p, raw, err := ask[api.Policy](cmd.Context(), s, http.MethodPut, policyPath+"/"+url.PathEscape(name), q)
	if err != nil {
		return err
	}
	return s.show(cmd, raw, func(w io.Writer) {
		state := "a draft: lazaretctl policy assign " + name
		if p.Assigned != nil && *p.Assigned {
			state = "assigned"
		}
		fmt.Fprintf(w, "saved policy set %s, version %d, %s\n", name, p.Version, state)
	})
}

func (s *session) policyAssign(verb, short string, assigned bool) *cobra.Command {
	return &cobra.Command{Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(policyPath, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, _, err := ask[api.Policy](cmd.Context(), s, http.MethodGet, policyPath+"/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			return s.putPolicy(cmd, args[0], api.Policy{TOML: p.TOML, Assigned: &assigned, Revision: p.Revision})
		}}
}

func (s *session) policyFacts() *cobra.Command {
	c := list(s, "fact", "/api/v1/facts", "NAME TYPE FROM TEXT", func(f api.Fact) []string {
		return []string{f.Name, f.Type, f.From, f.Text}
	})
	c.Use, c.Short = "facts", "List the facts that rules can speak of"
	return c
}

func (s *session) policyTry() *cobra.Command {
	var file string
	var q api.PolicyTry
	strict := false
	c := &cobra.Command{Use: "try -f FILE | try NAME", Short: "Show which devices would move under a policy set; none does", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: s.complete(policyPath, "name"),
		Example: `  lazaretctl policy try -f set.toml            as if that set were assigned
  lazaretctl policy try baseline               as if that draft were
  lazaretctl policy try baseline --without     as if it were not
  lazaretctl policy try --strict               as if strict mode were on`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				text, err := policyFile(cmd, file)
				if err != nil {
					return err
				}
				q.TOML = text
			}
			if len(args) == 1 {
				q.Policy = args[0]
			}
			if cmd.Flags().Changed("strict") {
				q.Strict = &strict
			}
			done := progress(cmd.ErrOrStderr(), "judging all devices...")
			out, raw, err := ask[api.PolicyTried](cmd.Context(), s, http.MethodPost, policyPath+"/try", q)
			done()
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showTried(w, out) })
		}}
	c.Flags().StringVarP(&file, "file", "f", "", "policy set in TOML, - for standard input")
	c.Flags().BoolVar(&q.Without, "without", false, "as if the set were not assigned")
	c.Flags().BoolVar(&strict, "strict", false, "as if strict mode were on, or with =false off")
	c.Flags().IntVar(&q.Limit, "limit", 20, "list that many devices at most")
	return c
}

// progress says on a terminal what takes a while; the answer takes it back.
func progress(w io.Writer, what string) (done func()) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}
	}
	fmt.Fprint(f, what)
	return func() { fmt.Fprint(f, "\r\x1b[K") }
}

func showTried(w io.Writer, out api.PolicyTried) {
	fmt.Fprintf(w, "%d of %d devices would move\n", out.Moves, out.Devices)
	if len(out.Counts) > 0 {
		rows := [][]string{}
		for _, c := range out.Counts {
			rows = append(rows, []string{fmt.Sprint(c.Devices), c.From, c.To, c.Rule})
		}
		fmt.Fprintln(w)
		grid(w, "DEVICES FROM TO RULE", rows)
	}
	if len(out.Rules) > 0 {
		rows := [][]string{}
		for _, r := range out.Rules {
			rows = append(rows, []string{fmt.Sprint(r.Devices), r.Rule})
		}
		fmt.Fprintln(w, "\nrules that would fail where they do not now, moving or not")
		grid(w, "DEVICES RULE", rows)
	}
	if len(out.Listed) == 0 {
		return
	}
	rows := [][]string{}
	for _, m := range out.Listed {
		text := m.Text
		if m.Order != "" {
			text = m.Order + ": " + text
		}
		rows = append(rows, []string{m.Name, dash(m.Owner), m.From, m.To, m.Rule, text})
	}
	fmt.Fprintln(w)
	grid(w, "DEVICE OWNER FROM TO RULE WHY", rows)
	if more := out.Moves - len(out.Listed); more > 0 {
		fmt.Fprintf(w, "and %d more: --limit shows them\n", more)
	}
}
