package alert

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/wneessen/go-mail"
)

// sendTime bounds one message.
const sendTime = 30 * time.Second

// mailer sends mail over TLS, by SMTP submission (RFC 6409, RFC 8314).
type mailer struct {
	outlet
	implicit bool // TLS from the first byte; else STARTTLS, which is asked for
	password string
}

// Send implements Outlet.
func (m *mailer) Send(ctx context.Context, notices []Notice) error {
	msg := mail.NewMsg()
	if err := msg.From(m.settings.From); err != nil {
		return fmt.Errorf("writing mail: %w", err)
	}
	if err := msg.To(m.settings.To...); err != nil {
		return fmt.Errorf("writing mail: %w", err)
	}
	msg.SetMessageID()
	msg.SetDate()
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody's holiday answers it
	msg.Subject(subject(m.settings.Gateway, notices))
	msg.SetBodyString(mail.TypeTextPlain, body(notices))
	var conn net.Conn
	client, err := m.client(&conn)
	if err != nil {
		return fmt.Errorf("preparing mail to %s: %w", m.address(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	defer func() { // the client leaves a connection open where it could not be made safe
		if conn != nil {
			conn.Close()
		}
	}()
	if err := client.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("sending mail by %s: %w", m.address(), err)
	}
	return nil
}

// client makes a client that notes the connection that it is to make safe.
func (m *mailer) client(conn *net.Conn) (*mail.Client, error) {
	port, err := strconv.ParseUint(m.port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", m.port, err)
	}
	options := []mail.Option{
		mail.WithPort(int(port)), mail.WithTLSConfig(m.tls), mail.WithTimeout(sendTime), mail.WithTLSPolicy(mail.TLSMandatory),
	}
	if m.implicit {
		options = append(options, mail.WithSSL())
	} else {
		options = append(options, mail.WithDialContextFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err == nil {
				*conn = c
			}
			return c, err
		}))
	}
	if m.settings.User != "" {
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(m.settings.User), mail.WithPassword(m.password))
	}
	return mail.NewClient(m.host, options...)
}
