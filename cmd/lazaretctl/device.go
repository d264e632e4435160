package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

func (s *session) device() *cobra.Command {
	c := &cobra.Command{Use: "device", Aliases: []string{"dev"}, Short: "Devices: where they are, why, and moving them"}
	c.AddCommand(s.deviceList(), s.deviceShow(), s.deviceExplain(), s.deviceConfig(),
		s.deviceAction("approve", "Admit a pending device, or lift a hold"),
		s.deviceAction("quarantine", "Hold a device in quarantine until it is approved"),
		s.deviceAction("block", "Cut a device off until it is unblocked"),
		s.deviceAction("unblock", "Let a blocked device back into quarantine"),
		s.deviceAction("revoke", "Cut a device off for ever, with its certificate"))
	return c
}

func (s *session) deviceList() *cobra.Command {
	var stage string
	c := &cobra.Command{Use: "list", Short: "List devices", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, raw, err := ask[[]api.Device](cmd.Context(), s, http.MethodGet, "/api/v1/devices?stage="+url.QueryEscape(stage), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				rows := [][]string{}
				for _, d := range list {
					rows = append(rows, []string{d.Name, d.Owner, d.Stage, d.Pool, ago(d.Since), ago(d.Until), addresses(d.Addresses), d.Reason})
				}
				grid(w, "NAME OWNER STAGE POOL SINCE UNTIL ADDRESSES REASON", rows)
			})
		}}
	c.Flags().StringVar(&stage, "stage", "", "only devices of this stage")
	_ = c.RegisterFlagCompletionFunc("stage", cobra.FixedCompletions([]string{"pending", "quarantined", "routed", "blocked", "revoked"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func addresses(list []netip.Addr) string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = a.String()
	}
	return strings.Join(out, " ")
}

func (s *session) deviceShow() *cobra.Command {
	return &cobra.Command{Use: "show DEVICE", Short: "Show one device", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, raw, err := ask[api.Device](cmd.Context(), s, http.MethodGet, "/api/v1/devices/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showDevice(w, d) })
		}}
}

func showDevice(w io.Writer, d api.Device) {
	for _, row := range [][2]string{
		{"name", d.Name}, {"id", d.ID}, {"owner", d.Owner}, {"stage", paint(w, d.Stage)}, {"pool", dash(d.Pool)},
		{"since", ago(d.Since)}, {"until", ago(d.Until)}, {"reason", d.Reason}, {"profile", d.Profile},
		{"platform", dash(d.Platform)}, {"ownership", dash(d.Ownership)}, {"serial", dash(d.Serial)},
		{"seat", fmt.Sprint(d.Seat)}, {"addresses", addresses(d.Addresses)}, {"wireguard", d.Key},
		{"proven", yes(d.Proven)}, {"certificate", d.Certificate}, {"expires", ago(d.NotAfter)},
	} {
		fmt.Fprintf(w, "%-12s %s\n", row[0], row[1])
	}
}

func (s *session) deviceExplain() *cobra.Command {
	return &cobra.Command{Use: "explain DEVICE", Short: "Say why a device is where it is", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, raw, err := ask[api.Explanation](cmd.Context(), s, http.MethodGet, "/api/v1/devices/"+url.PathEscape(args[0])+"/explain", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showExplanation(w, e) })
		}}
}

func showExplanation(w io.Writer, e api.Explanation) {
	fmt.Fprintf(w, "%s is %s%s, since %s", e.Device.Name, paint(w, e.Decided.Stage), inPool(e.Decided), ago(e.Device.Since))
	if !e.Decided.Until.IsZero() {
		fmt.Fprintf(w, ", until %s (%s)", e.Decided.Until.Local().Format("2006-01-02 15:04:05"), ago(e.Decided.Until))
	}
	fmt.Fprintln(w)
	for _, r := range e.Decided.Reasons {
		sign := "-"
		if r.Holds {
			sign = "+"
		}
		fmt.Fprintf(w, "  %s %-18s %s\n", sign, r.Rule, r.Text)
	}
	if len(e.Reports) > 0 {
		fmt.Fprintln(w, "reports")
		for _, r := range e.Reports {
			right := "does not release"
			if r.Releases {
				right = "may release"
			}
			fmt.Fprintf(w, "  %-18s %s, taken %s, valid for %s, %s\n", r.Source, cmp.Or(r.Verdict, "unknown"), ago(r.At), r.Validity, right)
		}
	}
	for _, p := range e.Pending {
		fmt.Fprintln(w, "applied, waits for the store:", p)
	}
	if !e.Enforced {
		fmt.Fprintln(w, "not enforced yet:", dash(e.Problem))
	}
}

// inPool names the pool of a device that has a peer; without one it is in none.
func inPool(d api.Decision) string {
	if d.Stage == "quarantined" || d.Stage == "routed" {
		return " in pool " + d.Pool
	}
	return ""
}

func (s *session) deviceAction(action, short string) *cobra.Command {
	var q api.ActionRequest
	c := &cobra.Command{Use: action + " DEVICE", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/api/v1/devices/" + url.PathEscape(args[0]) + "/" + action
			p, raw, err := ask[api.Placed](cmd.Context(), s, http.MethodPost, path, q)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showPlaced(w, args[0], p) })
		}}
	c.Flags().StringVar(&q.Why, "why", "", "reason, for the audit log and for the device's explanation")
	return c
}

func showPlaced(w io.Writer, name string, p api.Placed) {
	fmt.Fprintf(w, "%s is now %s%s", name, paint(w, p.Decision.Stage), inPool(p.Decision))
	if !p.Decision.Until.IsZero() {
		fmt.Fprintf(w, ", until %s", p.Decision.Until.Local().Format("15:04:05"))
	}
	fmt.Fprintln(w)
	if !p.Enforced {
		fmt.Fprintln(w, "recorded, but not enforced yet: the data plane does not answer; it follows as soon as it does")
	}
}

func (s *session) report() *cobra.Command {
	var q api.ReportRequest
	var facts map[string]string
	var file string
	c := &cobra.Command{
		Use: "report DEVICE compliant|noncompliant", Short: "Report a device's compliance, or many devices', as a management server would",
		Args: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.ExactArgs(2)(cmd, args)
		},
		Example: "  lazaretctl report alice-laptop compliant --source management --validity 1h\n" +
			"  lazaretctl report -f fleet.json   # objects like {\"device\":\"alice-laptop\",\"verdict\":\"compliant\"}, one after the other",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return []string{"compliant", "noncompliant"}, cobra.ShellCompDirectiveNoFileComp
			}
			return s.complete("/api/v1/devices", "name")(cmd, args, part)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.tokenFile == "" && q.Source == "" {
				q.Source = "management"
			}
			if file != "" {
				return s.reportFile(cmd, file, q)
			}
			q.Device, q.Verdict, q.Facts = args[0], args[1], facts
			p, raw, err := ask[api.Placed](cmd.Context(), s, http.MethodPost, "/api/v1/reports", q)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showPlaced(w, args[0], p) })
		},
	}
	f := c.Flags()
	f.StringVarP(&file, "file", "f", "", "file of reports of many devices, - for standard input")
	f.StringVar(&q.Source, "source", "", "source to report as (a token has its own; default: management)")
	f.StringVar(&q.Validity, "validity", "", "how long the report stands, like 1h")
	f.StringVar(&q.Detail, "detail", "", "one sentence for people")
	f.StringToStringVar(&facts, "fact", nil, "facts it rests on, like os=14.2")
	return c
}

// complete offers the values of one field of a listing; any failure offers nothing.
func (s *session) complete(path, field string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, part string) ([]string, cobra.ShellCompDirective) {
		list, _, err := ask[[]map[string]json.RawMessage](cmd.Context(), s, http.MethodGet, path, nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, item := range list {
			var v string
			if json.Unmarshal(item[field], &v) == nil && strings.HasPrefix(v, part) {
				out = append(out, v)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
