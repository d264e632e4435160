package main

import (
	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

func (s *session) source() *cobra.Command {
	const path = "/api/v1/sources"
	var release bool
	var validity string
	set := &cobra.Command{Use: "set NAME", Short: "Create a source of reports or change it", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(path, "name")}
	set.RunE = func(cmd *cobra.Command, args []string) error {
		changed := cmd.Flags().Changed
		return save(cmd, s, "source", path, args[0], func(v api.Source) string { return v.Name }, func(v *api.Source) {
			v.Name = args[0]
			if changed("may-release") {
				v.MayRelease = release
			}
			if changed("max-validity") {
				v.MaxValidity = validity
			}
		})
	}
	set.Flags().BoolVar(&release, "may-release", false, "its word can move a device into routing")
	set.Flags().StringVar(&validity, "max-validity", "", "longest validity of its reports, like 1h")
	c := &cobra.Command{Use: "source", Short: "Who may report compliance"}
	c.AddCommand(set, remove(s, "source", path), list(s, "source", path, "NAME RELEASES VALIDITY", func(v api.Source) []string {
		return []string{v.Name, yes(v.MayRelease), dash(v.MaxValidity)}
	}))
	return c
}
