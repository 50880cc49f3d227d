// Package access decides who may see what: a user's Kubernetes token is asked,
// not the dashboard's own rights.
package access

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Lifetime of an answer: how long a page goes on after a right was taken away.
const (
	lifetime   = 10 * time.Second
	maxAnswers = 4096
)

// Reviewer asks Kubernetes whether the owner of a token may list the pods of a
// namespace, of all when it is empty. A token that Kubernetes does not know is
// errdefs.ErrUnauthenticated.
type Reviewer func(ctx context.Context, token, namespace string) (bool, error)

// Gate lets requests pass or not, and remembers answers for a short time.
type Gate struct {
	review Reviewer
	now    func() time.Time

	mutex   sync.Mutex
	answers map[question]answer
}

// question holds a hash, so that tokens do not stay in memory.
type question struct {
	token     [sha256.Size]byte
	namespace string
}

type answer struct {
	allowed bool
	until   time.Time
}

// Open is a gate that lets everybody pass.
func Open() *Gate { return &Gate{} }

// NewGate makes a gate that asks.
func NewGate(review Reviewer, now func() time.Time) *Gate {
	return &Gate{review: review, now: now, answers: map[question]answer{}}
}

// ListPods fails unless the sender of a request may list the pods of a
// namespace, of all when it is empty: errdefs.ErrUnauthenticated without a
// valid token, errdefs.ErrPermissionDenied without the right.
func (g *Gate) ListPods(ctx context.Context, header http.Header, namespace string) error {
	if g.review == nil {
		return nil
	}
	token, ok := strings.CutPrefix(header.Get("Authorization"), "Bearer ")
	if token = strings.TrimSpace(token); !ok || token == "" {
		return fmt.Errorf("sign in with a Kubernetes token: %w", errdefs.ErrUnauthenticated)
	}
	allowed, err := g.ask(ctx, token, namespace)
	if err != nil {
		return err
	}
	if !allowed && namespace == "" {
		return fmt.Errorf("you may not list the pods of all namespaces, choose one: %w", errdefs.ErrPermissionDenied)
	}
	if !allowed {
		return fmt.Errorf("you may not list the pods of namespace %s: %w", namespace, errdefs.ErrPermissionDenied)
	}
	return nil
}

func (g *Gate) ask(ctx context.Context, token, namespace string) (bool, error) {
	q := question{token: sha256.Sum256([]byte(token)), namespace: namespace}
	if known, ok := g.recall(q); ok {
		return known, nil
	}
	allowed, err := g.review(ctx, token, namespace)
	if err != nil {
		return false, err
	}
	g.remember(q, allowed)
	return allowed, nil
}

func (g *Gate) recall(q question) (allowed, ok bool) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	a, ok := g.answers[q]
	return a.allowed, ok && g.now().Before(a.until)
}

func (g *Gate) remember(q question, allowed bool) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	now := g.now()
	if len(g.answers) >= maxAnswers {
		for key, a := range g.answers {
			if !now.Before(a.until) {
				delete(g.answers, key)
			}
		}
	}
	if len(g.answers) < maxAnswers {
		g.answers[q] = answer{allowed: allowed, until: now.Add(lifetime)}
	}
}
