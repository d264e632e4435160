package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"lazaret/enroll/code"
	"lazaret/internal/console/api"
)

func (s *session) otp() *cobra.Command {
	c := &cobra.Command{Use: "otp", Short: "One-time passwords that enroll a device"}
	c.AddCommand(s.otpCreate(), s.otpList(), s.otpCancel())
	return c
}

func (s *session) otpCreate() *cobra.Command {
	var q api.OTPRequest
	var link bool
	c := &cobra.Command{
		Use: "create --user NAME", Short: "Create a one-time password and show its code, once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, raw, err := ask[api.OTPCreated](cmd.Context(), s, http.MethodPost, "/api/v1/otps", q)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				fmt.Fprintf(w, "code     %s\nserver   %s\nuser     %s\nprofile  %s\nexpires  %s (%s)\n",
					o.Code, o.Server, o.User, o.Profile, o.Expires.Local().Format("2006-01-02 15:04"), ago(o.Expires))
				if link {
					fmt.Fprintf(w, "link     %s\n", code.Link(o.Server, o.Code, o.Root))
				}
				fmt.Fprintf(w, "\nOn the device: lazaret enroll --server %s\n", o.Server)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&q.User, "user", "", "user the device will belong to (required)")
	f.StringVar(&q.Profile, "profile", "", "enrollment profile (default: default)")
	f.StringVar(&q.Device, "device", "", "existing device to enroll again, by id or name")
	f.StringVar(&q.Name, "name", "", "name for the device")
	f.StringVar(&q.Serial, "serial", "", "only a device with this hardware serial number")
	f.StringVar(&q.Platform, "platform", "", "only this platform, like linux")
	f.StringVar(&q.Ownership, "ownership", "", "corporate or personal")
	f.StringVar(&q.Life, "life", "", "how long it is valid, like 8h; 7 days at most (default 8h)")
	f.BoolVar(&link, "link", false, "also show a link that carries server, code and the root's fingerprint")
	_ = c.MarkFlagRequired("user") // defined above
	_ = c.RegisterFlagCompletionFunc("profile", s.complete("/api/v1/profiles", "name"))
	_ = c.RegisterFlagCompletionFunc("device", s.complete("/api/v1/devices", "name"))
	return c
}

func (s *session) otpList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List one-time passwords", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, raw, err := ask[[]api.OTP](cmd.Context(), s, http.MethodGet, "/api/v1/otps", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				rows := [][]string{}
				for _, o := range list {
					rows = append(rows, []string{o.Reference, o.State, o.User, o.Profile, ago(o.Expires), dash(o.Device), o.CreatedBy})
				}
				grid(w, "REFERENCE STATE USER PROFILE EXPIRES DEVICE BY", rows)
			})
		}}
}

func (s *session) otpCancel() *cobra.Command {
	return &cobra.Command{Use: "cancel REFERENCE", Short: "Cancel a pending one-time password", Args: cobra.ExactArgs(1),
		ValidArgsFunction: s.complete("/api/v1/otps", "reference"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodDelete, "/api/v1/otps/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "cancelled", args[0]) })
		}}
}
