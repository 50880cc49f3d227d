package access

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TokenReviewer asks the cluster of a configuration by SelfSubjectAccessReview,
// sent with the user's token and none of the configuration's own credentials.
func TokenReviewer(config *rest.Config) Reviewer {
	return func(ctx context.Context, token, namespace string) (bool, error) {
		user := rest.AnonymousClientConfig(config)
		user.BearerToken = token
		client, err := kubernetes.NewForConfig(user)
		if err != nil {
			return false, fmt.Errorf("make client of the user: %w", err)
		}
		return review(ctx, client, namespace)
	}
}

func review(ctx context.Context, client kubernetes.Interface, namespace string) (bool, error) {
	result, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespace, Verb: "list", Resource: "pods",
		}},
	}, metav1.CreateOptions{})
	switch {
	case apierrors.IsUnauthorized(err):
		return false, fmt.Errorf("kubernetes does not know this token: %w", errdefs.ErrUnauthenticated)
	case apierrors.IsForbidden(err): // an anonymous or restricted user
		return false, nil
	case err != nil:
		return false, fmt.Errorf("ask kubernetes for the user's rights: %w: %w", err, errdefs.ErrUnavailable)
	}
	return result.Status.Allowed, nil
}
