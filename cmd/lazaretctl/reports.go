package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

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

// Reports of many devices go to the gateway in parts, one request each.
const (
	partReports = 500       // of one request; the gateway takes 10000
	partBytes   = 512 << 10 // of one request, about; the gateway takes 8 MiB
)

// reportFile sends the reports of a file, "-" for standard input, and says what became of
// them. common fills what a line leaves out.
func (s *session) reportFile(cmd *cobra.Command, path string, common api.ReportRequest) error {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("reading reports: %w", err)
		}
		defer f.Close()
		in = f
	}
	c, err := s.open()
	if err != nil {
		return err
	}
	var all []api.Reported
	refused := 0
	err = parts(in, common, func(part []api.ReportRequest) error {
		told, err := sendReports(cmd.Context(), c, part)
		all = append(all, told...)
		for _, r := range told {
			if r.Problem != nil {
				refused++
			}
		}
		return err
	})
	raw, _ := json.Marshal(all)
	if show := s.show(cmd, raw, func(w io.Writer) { showReported(w, all) }); show != nil {
		return errors.Join(err, show)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w; %d reports before it are answered above", err, len(all))
	case refused > 0:
		return fmt.Errorf("%d of %d reports were refused", refused, len(all))
	}
	return nil
}

// parts reads one JSON object after the other and hands them on in parts of a request each.
func parts(in io.Reader, common api.ReportRequest, send func([]api.ReportRequest) error) error {
	d := json.NewDecoder(bufio.NewReader(in))
	d.DisallowUnknownFields()
	var part []api.ReportRequest
	size := 0
	for n := 1; ; n++ {
		start := d.InputOffset()
		var q api.ReportRequest
		err := d.Decode(&q)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading report %d: %w", n, err)
		}
		if err == nil {
			q.Source, q.Validity = cmp.Or(q.Source, common.Source), cmp.Or(q.Validity, common.Validity)
			part = append(part, q)
			size += int(d.InputOffset() - start)
		}
		if len(part) > 0 && (err != nil || len(part) == partReports || size >= partBytes) {
			if sent := send(part); sent != nil {
				return fmt.Errorf("sending reports %d to %d: %w", n-len(part)+1, n, sent)
			}
			part, size = nil, 0
		}
		if err != nil {
			return nil
		}
	}
}

func sendReports(ctx context.Context, c *caller, part []api.ReportRequest) ([]api.Reported, error) {
	raw, err := c.call(ctx, http.MethodPost, "/api/v1/reports/batch", part)
	if err != nil {
		return nil, err
	}
	var told []api.Reported
	if err := json.Unmarshal(raw, &told); err != nil {
		return nil, fmt.Errorf("reading the gateway's answer: %w", err)
	}
	return told, nil
}

// showReported counts what became of the reports, and names those that were refused.
func showReported(w io.Writer, all []api.Reported) {
	stages := map[string]int{}
	for _, r := range all {
		if r.Problem != nil {
			fmt.Fprintf(w, "%s: %s\n", r.Device, r.Problem.Error)
			continue
		}
		if r.Decision != nil {
			stages[r.Decision.Stage]++
		}
	}
	for _, stage := range []string{"routed", "quarantined", "pending", "blocked", "revoked"} {
		if stages[stage] > 0 {
			fmt.Fprintf(w, "%s: %d\n", stage, stages[stage])
		}
	}
}
