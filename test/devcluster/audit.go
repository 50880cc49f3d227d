package devcluster

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// AuditEvent is a complete request of a service account to the API server.
type AuditEvent struct {
	// User is system:serviceaccount:NAMESPACE:NAME.
	User string
	// Verb is get, list, watch, create, patch and so on.
	Verb string
	// URI is the path with the query.
	URI string
	// SourceIPs begins with the caller's address: its node's or its pod's.
	SourceIPs []string
	UserAgent string
	// Code is the HTTP status.
	Code int
	// Received is when the API server received the request; a watch is logged
	// when it ends.
	Received time.Time
}

// AuditEvents reads the requests that were received at since or later, in the
// order in which they were completed.
func (c *Cluster) AuditEvents(since time.Time) ([]AuditEvent, error) {
	f, err := os.Open(c.AuditLog())
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	defer func() { _ = f.Close() }()
	return readAudit(f, since)
}

func readAudit(r io.Reader, since time.Time) ([]AuditEvent, error) {
	var events []AuditEvent
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return events, nil // what follows the last newline is being written
		}
		if err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		event, err := parseAudit(line)
		if err != nil {
			return nil, err
		}
		if !event.Received.Before(since) {
			events = append(events, event)
		}
	}
}

// parseAudit reads an event of the API group audit.k8s.io/v1.
func parseAudit(line []byte) (AuditEvent, error) {
	var raw struct {
		User                     struct{ Username string }
		Verb                     string
		RequestURI               string
		SourceIPs                []string
		UserAgent                string
		ResponseStatus           struct{ Code int }
		RequestReceivedTimestamp time.Time
	}
	if err := json.Unmarshal(line, &raw); err != nil {
		return AuditEvent{}, fmt.Errorf("read audit event: %w", err)
	}
	return AuditEvent{
		User: raw.User.Username, Verb: raw.Verb, URI: raw.RequestURI, SourceIPs: raw.SourceIPs,
		UserAgent: raw.UserAgent, Code: raw.ResponseStatus.Code, Received: raw.RequestReceivedTimestamp,
	}, nil
}
