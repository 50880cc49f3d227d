package api

import (
	"encoding/base64"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/services/dashboard/internal/catalog"
)

const (
	defaultPageSize = 100
	maxPageSize     = 1000
)

// paginate cuts a page out of items, which are in the order of catalog.Compare.
// A token is the place of the last item rather than a number, so that pods that
// come or go between two calls neither repeat nor hide others.
func paginate[T any](items []T, podOf func(T) *corev1.Pod, size int32, token string) (page []T, next string, err error) {
	switch {
	case size < 0:
		return nil, "", fmt.Errorf("page_size %d is negative: %w", size, errdefs.ErrInvalidArgument)
	case size == 0:
		size = defaultPageSize
	}
	size = min(size, maxPageSize)
	start := 0
	if token != "" {
		last, err := decodeToken(token)
		if err != nil {
			return nil, "", err
		}
		start = sort.Search(len(items), func(i int) bool { return catalog.Compare(podOf(items[i]), last) > 0 })
	}
	end := min(start+int(size), len(items))
	if end < len(items) {
		next = encodeToken(podOf(items[end-1]))
	}
	return items[start:end], next, nil
}

func encodeToken(pod *corev1.Pod) string {
	place := strconv.FormatInt(pod.CreationTimestamp.Unix(), 10) + "/" + pod.Namespace + "/" + pod.Name
	return base64.RawURLEncoding.EncodeToString([]byte(place))
}

func decodeToken(token string) (*corev1.Pod, error) {
	wrong := fmt.Errorf("page_token is not one of this server: %w", errdefs.ErrInvalidArgument)
	place, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, wrong
	}
	seconds, name, _ := strings.Cut(string(place), "/")
	namespace, name, ok := strings.Cut(name, "/")
	created, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || !ok {
		return nil, wrong
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(created, 0)),
	}}, nil
}
