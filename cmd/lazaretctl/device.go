package main

import (
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
		s.deviceAction("revoke", "Cut a device off for ever, with its certificate"),
		s.deviceAction("wipe", "Tell a device to wipe what enrollment gave it, and route it no more"),
		s.deviceAction("unwipe", "Take an order to wipe back"),
		s.deviceClear(), s.deviceGroup(), s.deviceSignIn(), s.deviceSignOut(), s.deviceHistory())
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
		{"groups", dash(strings.Join(d.Groups, " "))}, {"seen", ago(d.Seen)}, {"wipe", yes(d.Wipe)},
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
