package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/internal/audit"
	"lazaret/internal/console/api"
)

func (s *session) audit() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "The audit log: read, export, verify"}
	c.AddCommand(s.auditList(), s.auditExport(), s.auditHead(), s.auditVerify())
	return c
}

func (s *session) auditList() *cobra.Command {
	var device, since string
	var limit int
	c := &cobra.Command{Use: "list", Short: "List entries, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			if device != "" {
				q.Set("device", device)
			}
			if since != "" {
				q.Set("since", since)
			}
			list, raw, err := ask[[]api.AuditEntry](cmd.Context(), s, http.MethodGet, "/api/v1/audit?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				rows := [][]string{}
				for _, e := range list {
					rows = append(rows, []string{e.At.Local().Format("2006-01-02_15:04:05"), e.Action, dash(e.Subject), e.By, details(e.Detail)})
				}
				grid(w, "TIME ACTION SUBJECT BY DETAIL", rows)
			})
		}}
	c.Flags().StringVar(&device, "device", "", "only this device, by id or name")
	c.Flags().StringVar(&since, "since", "", "only after this time, like 2026-01-31T08:00:00Z")
	c.Flags().IntVar(&limit, "limit", 100, "at most so many")
	_ = c.RegisterFlagCompletionFunc("device", s.complete("/api/v1/devices", "name"))
	return c
}

func details(m map[string]string) string {
	var out []string
	for k, v := range m {
		if v != "" {
			out = append(out, k+"="+v)
		}
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

func (s *session) auditExport() *cobra.Command {
	return &cobra.Command{Use: "export FILE", Short: "Write all segments to a tar file", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.open()
			if err != nil {
				return err
			}
			raw, err := c.call(cmd.Context(), http.MethodGet, "/api/v1/audit/export", nil)
			if err != nil {
				return err
			}
			if err := os.WriteFile(args[0], raw, 0o600); err != nil {
				return fmt.Errorf("writing the export: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %d bytes to %s\n", len(raw), args[0])
			return nil
		}}
}

func (s *session) auditHead() *cobra.Command {
	return &cobra.Command{Use: "head", Short: "Print the head of the chain; keep it elsewhere, for verify", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, raw, err := ask[audit.Head](cmd.Context(), s, http.MethodGet, "/api/v1/audit/head", nil)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(raw)
			return err
		}}
}

// auditVerify needs no gateway: the files and, for a cut tail, a saved head are enough.
func (s *session) auditVerify() *cobra.Command {
	var headFile string
	c := &cobra.Command{Use: "verify FILE|DIRECTORY", Short: "Check exported segments offline, against a saved head", Args: cobra.ExactArgs(1),
		Long: `Check exported segments without asking any gateway. An edit, a deletion and a change of
order are found from the segments alone; a cut tail is found with --head, a file that
"lazaretctl audit head" printed earlier. It fails unless the log is whole from its first
segment on: where a segment was begun by force, nobody can vouch for what stood before.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var saved audit.Head
			if headFile != "" {
				text, err := os.ReadFile(headFile)
				if err != nil {
					return fmt.Errorf("reading the saved head: %w", err)
				}
				if err := json.Unmarshal(text, &saved); err != nil {
					return fmt.Errorf("reading the saved head %s: %w", headFile, err)
				}
				if saved == (audit.Head{}) {
					return fmt.Errorf("reading the saved head %s: there is none in it", headFile)
				}
			}
			report, err := verify(args[0], saved)
			if err == nil && len(report.Breaks) > 0 {
				err = fmt.Errorf("not whole: in %d places the log was begun anew by force, and what stood before may be gone", len(report.Breaks))
			}
			if s.json {
				if e := json.NewEncoder(cmd.OutOrStdout()).Encode(report); e != nil {
					return e
				}
				return err
			}
			for _, b := range report.Breaks {
				fmt.Fprintf(cmd.OutOrStdout(), "break: %s\n", b)
			}
			if report.Torn {
				fmt.Fprintln(cmd.OutOrStdout(), "torn: the last line is incomplete, as a crash or an export in the middle of a write leaves it")
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "whole: %d entries in %d segments\n", report.Entries, report.Segments)
			if headFile == "" {
				fmt.Fprintln(cmd.OutOrStdout(), "no saved head was given: a cut tail would not show (see --head)")
			}
			return nil
		}}
	c.Flags().StringVar(&headFile, "head", "", "file with a head saved earlier")
	return c
}

func verify(path string, saved audit.Head) (audit.Report, error) {
	info, err := os.Stat(path)
	if err != nil {
		return audit.Report{}, fmt.Errorf("reading the export: %w", err)
	}
	if info.IsDir() {
		return audit.Verify(path, saved)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return audit.Report{}, fmt.Errorf("reading the export: %w", err)
	}
	report, err := audit.VerifyTar(bytes.NewReader(text), saved)
	if err != nil && !errors.Is(err, audit.ErrBroken) {
		err = fmt.Errorf("reading %s: %w", path, err)
	}
	return report, err
}
