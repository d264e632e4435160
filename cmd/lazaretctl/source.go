package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

const sourcesPath = "/api/v1/sources"

func sourcePath(name string, more ...string) string {
	return sourcesPath + "/" + url.PathEscape(name) + strings.Join(append([]string{""}, more...), "/")
}

// source is about who may report compliance.
func (s *session) source() *cobra.Command {
	c := &cobra.Command{Use: "source", Short: "Who may report compliance", Example: `  lazaretctl source add fleet --kind fleet --release --for-platform macos --facts "mdm.*,os.*,disk.encrypted,fleet.policy.*"
  lazaretctl source configure fleet --set url=https://fleet.example.com --secret token=fleet-token.txt
  lazaretctl source health`}
	drop := remove(s, "source", sourcesPath)
	drop.Use, drop.Aliases = "remove NAME", []string{"delete"}
	c.AddCommand(s.sourceSave("add", "Create a source of reports", true), s.sourceSave("set", "Change a source, or create it", false),
		s.sourceShow(), s.sourceHealth(), s.sourceConfigure(), drop,
		list(s, "source", sourcesPath, "NAME KIND RELEASES VALIDITY SILENT FOR FACTS", func(v api.Source) []string {
			return []string{v.Name, v.Kind, yes(v.MayRelease), dash(v.MaxValidity), dash(v.Silent), selection(v.For), dash(strings.Join(v.Facts, ","))}
		}))
	return c
}

// sourceCommand is a command about one source.
func (s *session) sourceCommand(use, short string, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(sourcesPath, "name"), RunE: run}
}

// sourceFlags fill a source.
func sourceFlags(c *cobra.Command, v *api.Source) {
	f := c.Flags()
	f.StringVar(&v.Kind, "kind", "api", "api, webhook, ssf, fleet, intune or jamf; it stays as it is")
	f.BoolVar(&v.MayRelease, "release", false, "its word can move a device into routing")
	f.StringVar(&v.MaxValidity, "max-validity", "", "longest validity of its reports, like 1h; empty: that of its kind")
	f.StringSliceVar(&v.Facts, "facts", []string{"*"}, `facts it may speak of, like "disk.encrypted", "os.*" or "*" for any; "" for none`)
	f.StringVar(&v.Silent, "silent", "", "tell people when nothing was heard of it for so long, like 24h")
	f.StringSliceVar(&v.For.Ownerships, "for-ownership", nil, "only devices of these: corporate, personal")
	f.StringSliceVar(&v.For.Platforms, "for-platform", nil, "only devices of these platforms")
	f.StringSliceVar(&v.For.Profiles, "for-profile", nil, "only devices of these profiles")
	f.StringSliceVar(&v.For.Groups, "for-group", nil, "only devices of one of these groups")
	f.BoolVar(&v.MayRelease, "may-release", false, "the same as --release")
	_ = f.MarkHidden("may-release")
}

// sourceSave creates a source or changes it: flags that are given change what is there, and
// all of them make a new one.
func (s *session) sourceSave(verb, short string, fresh bool) *cobra.Command {
	var v api.Source
	c := s.sourceCommand(verb+" NAME", short, func(cmd *cobra.Command, args []string) error {
		name, was := args[0], api.Source{}
		if !fresh {
			all, _, err := ask[[]api.Source](cmd.Context(), s, http.MethodGet, sourcesPath, nil)
			if err != nil {
				return err
			}
			if at := slices.IndexFunc(all, func(o api.Source) bool { return o.Name == name }); at >= 0 {
				was = all[at]
			}
		}
		created := was.Name == ""
		was.Name = name
		changed := func(flag string) bool { return created || cmd.Flags().Changed(flag) }
		for flag, apply := range map[string]func(){
			"kind": func() { was.Kind = v.Kind }, "release": func() { was.MayRelease = v.MayRelease }, "may-release": func() { was.MayRelease = v.MayRelease }, "max-validity": func() { was.MaxValidity = v.MaxValidity },
			"facts": func() { was.Facts = slices.DeleteFunc(slices.Clone(v.Facts), func(f string) bool { return f == "" }) }, "silent": func() { was.Silent = v.Silent },
			"for-ownership": func() { was.For.Ownerships = v.For.Ownerships }, "for-platform": func() { was.For.Platforms = v.For.Platforms },
			"for-profile": func() { was.For.Profiles = v.For.Profiles }, "for-group": func() { was.For.Groups = v.For.Groups },
		} {
			if changed(flag) {
				apply()
			}
		}
		got, raw, err := ask[api.Source](cmd.Context(), s, http.MethodPut, sourcePath(name), was)
		if err != nil {
			return err
		}
		return s.show(cmd, raw, func(w io.Writer) {
			fmt.Fprintln(w, "saved source", name)
			if next := nextStep(got); created && next != "" {
				fmt.Fprintln(w, "next:", next)
			}
		})
	})
	sourceFlags(c, &v)
	_ = c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions([]string{"api", "webhook", "ssf", "fleet", "intune", "jamf"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("for-profile", s.complete("/api/v1/profiles", "name"))
	return c
}

// nextStep is what a new source needs before it can say anything.
func nextStep(v api.Source) string {
	switch v.Kind {
	case "fleet", "intune", "jamf":
		return "lazaretctl source configure " + v.Name
	case "webhook":
		return "lazaretctl hook key add " + v.Name
	case "ssf":
		return "lazaretctl ssf set " + v.Name
	default:
		return "lazaretctl token create NAME --scope report --source " + v.Name
	}
}

func (s *session) sourceShow() *cobra.Command {
	return s.sourceCommand("show NAME", "Show a source, how it is asked, and how it does", func(cmd *cobra.Command, args []string) error {
		v, raw, err := ask[api.Source](cmd.Context(), s, http.MethodGet, sourcePath(args[0]), nil)
		if err != nil || s.json {
			return s.showOr(cmd, raw, err)
		}
		h, _, err := ask[api.SourceHealth](cmd.Context(), s, http.MethodGet, sourcePath(args[0], "health"), nil)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		fmt.Fprintf(out, "%s, of kind %s, releases: %s\n", v.Name, v.Kind, yes(v.MayRelease))
		fmt.Fprintf(out, "  validity at most %s, for %s\n  speaks of %s\n", dash(v.MaxValidity), selection(v.For), dash(strings.Join(v.Facts, ", ")))
		printHealth(out, h)
		if v.Kind != "fleet" && v.Kind != "intune" && v.Kind != "jamf" {
			return nil
		}
		conn, _, err := ask[api.Connection](cmd.Context(), s, http.MethodGet, sourcePath(args[0], "settings"), nil)
		if err != nil {
			return err
		}
		printConnection(out, conn)
		return nil
	})
}

// showOr prints raw JSON, unless there is an error.
func (s *session) showOr(cmd *cobra.Command, raw []byte, err error) error {
	if err != nil {
		return err
	}
	return s.show(cmd, raw, func(io.Writer) {})
}

func printHealth(w io.Writer, h api.SourceHealth) {
	fmt.Fprintf(w, "  heard %s, asked %s, next %s; %d reports accepted, %d refused since the gateway started\n", ago(h.Heard), ago(h.Tried), ago(h.Next), h.Accepted, h.Refused)
	if h.Problem != "" {
		fmt.Fprintf(w, "  problem: %s\n", h.Problem)
	}
	if h.Failures > 0 {
		fmt.Fprintf(w, "  it failed %d times in a row\n", h.Failures)
	}
}

func (s *session) sourceHealth() *cobra.Command {
	c := &cobra.Command{Use: "health [NAME]", Short: "How sources do", Args: cobra.MaximumNArgs(1), ValidArgsFunction: s.complete(sourcesPath, "name")}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			h, raw, err := ask[api.SourceHealth](cmd.Context(), s, http.MethodGet, sourcePath(args[0], "health"), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				fmt.Fprintf(w, "%s, of kind %s\n", h.Source, h.Kind)
				printHealth(w, h)
			})
		}
		all, raw, err := ask[[]api.SourceHealth](cmd.Context(), s, http.MethodGet, sourcesPath+"/health", nil)
		if err != nil {
			return err
		}
		return s.show(cmd, raw, func(w io.Writer) {
			rows := [][]string{}
			for _, h := range all {
				rows = append(rows, []string{h.Source, h.Kind, ago(h.Heard), ago(h.Tried), ago(h.Next), fmt.Sprint(h.Accepted), fmt.Sprint(h.Refused), fmt.Sprint(h.Failures), dash(clip(h.Problem))})
			}
			grid(w, "NAME KIND HEARD ASKED NEXT ACCEPTED REFUSED FAILURES PROBLEM", rows)
		})
	}
	return c
}

// clip shortens what is to stand in a table.
func clip(text string) string {
	if r := []rune(text); len(r) > 80 {
		return string(r[:79]) + "…"
	}
	return text
}
