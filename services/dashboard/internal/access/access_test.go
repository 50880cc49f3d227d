package access_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/client-go/rest"

	"github.com/juicefs-csi/driver/services/dashboard/internal/access"
)

func bearer(token string) http.Header {
	return http.Header{"Authorization": {"Bearer " + token}}
}

func TestOpenGate(t *testing.T) {
	t.Parallel()
	if err := access.Open().ListPods(t.Context(), http.Header{}, ""); err != nil {
		t.Error(err)
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	gate := access.NewGate(func(_ context.Context, token, namespace string) (bool, error) {
		if token == "unknown" {
			return false, errdefs.ErrUnauthenticated
		}
		return token == "admin" || namespace == "team", nil
	}, time.Now)
	tests := map[string]struct {
		header    http.Header
		namespace string
		want      error
	}{
		"no header":             {http.Header{}, "", errdefs.ErrUnauthenticated},
		"other scheme":          {http.Header{"Authorization": {"Basic YTpi"}}, "", errdefs.ErrUnauthenticated},
		"empty token":           {bearer(" "), "", errdefs.ErrUnauthenticated},
		"unknown token":         {bearer("unknown"), "team", errdefs.ErrUnauthenticated},
		"all allowed":           {bearer("admin"), "", nil},
		"all refused":           {bearer("member"), "", errdefs.ErrPermissionDenied},
		"own namespace":         {bearer("member"), "team", nil},
		"namespace of a friend": {bearer("member"), "friends", errdefs.ErrPermissionDenied},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := gate.ListPods(t.Context(), tt.header, tt.namespace); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAnswersAreRemembered(t *testing.T) {
	t.Parallel()
	asked, now, allowed := 0, time.Unix(0, 0), true
	gate := access.NewGate(func(context.Context, string, string) (bool, error) {
		asked++
		return allowed, nil
	}, func() time.Time { return now })
	ask := func(token, namespace string) error { return gate.ListPods(t.Context(), bearer(token), namespace) }

	for range 3 {
		if err := ask("a", "x"); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times for one question", asked)
	}
	if err := errors.Join(ask("a", "y"), ask("b", "x")); err != nil || asked != 3 {
		t.Errorf("another namespace or token is another question: asked %d, %v", asked, err)
	}
	allowed, now = false, now.Add(11*time.Second)
	if err := ask("a", "x"); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("a right that was taken away is gone after 10 s, got %v", err)
	}
}

func TestFailuresAreNotRemembered(t *testing.T) {
	t.Parallel()
	var failure error = errdefs.ErrUnavailable
	gate := access.NewGate(func(context.Context, string, string) (bool, error) { return failure == nil, failure }, time.Now)
	if err := gate.ListPods(t.Context(), bearer("a"), ""); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	failure = nil
	if err := gate.ListPods(t.Context(), bearer("a"), ""); err != nil {
		t.Error(err)
	}
}

// The review goes out with the user's token and nothing of the dashboard's own.
func TestTokenReviewer(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status  int
		body    string
		allowed bool
		want    error
	}{
		"allowed": {http.StatusCreated, review(true), true, nil},
		"refused": {http.StatusCreated, review(false), false, nil},
		"unknown": {http.StatusUnauthorized, status(401, "Unauthorized"), false, errdefs.ErrUnauthenticated},
		"forbid":  {http.StatusForbidden, status(403, "Forbidden"), false, nil},
		"broken":  {http.StatusInternalServerError, status(500, "InternalError"), false, errdefs.ErrUnavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Authorization"); got != "Bearer user" {
					t.Errorf("sent with %q", got)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.status)
				if _, err := w.Write([]byte(tt.body)); err != nil {
					t.Error(err)
				}
			}))
			t.Cleanup(server.Close)
			review := access.TokenReviewer(&rest.Config{Host: server.URL, BearerToken: "dashboard", Username: "root", Password: "x"})
			allowed, err := review(t.Context(), "user", "ns")
			if allowed != tt.allowed || !errors.Is(err, tt.want) {
				t.Errorf("got %v, %v; want %v, %v", allowed, err, tt.allowed, tt.want)
			}
		})
	}
}

func review(allowed bool) string {
	return fmt.Sprintf(`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","status":{"allowed":%v}}`, allowed)
}

func status(code int, reason string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Status","status":"Failure","reason":%q,"code":%d}`, reason, code)
}
