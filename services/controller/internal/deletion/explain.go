package deletion

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	explainTimeout = 3 * time.Second
	// maxLines of the client's last words go into an error.
	maxLines = 3
)

// explain says why the Job has not succeeded, as its newest pods tell; empty
// when they tell nothing. It has a time of its own, since it is called when the
// caller's is over.
func (r *Remover) explain(ctx context.Context, plan plan) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), explainTimeout)
	defer cancel()
	pods, err := r.Client.CoreV1().Pods(plan.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: batchv1.JobNameLabel + "=" + plan.name,
	})
	if err != nil {
		return ""
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for i := range pods.Items {
		if reason := explainPod(&pods.Items[i]); reason != "" {
			return reason
		}
	}
	return ""
}

func explainPod(pod *corev1.Pod) string {
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if ended := status.State.Terminated; ended != nil && ended.ExitCode != 0 {
			return explainEnd(ended)
		}
		if waiting := status.State.Waiting; waiting != nil && waiting.Message != "" {
			return fmt.Sprintf("pod %s: %s: %s", pod.Name, waiting.Reason, waiting.Message)
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return fmt.Sprintf("pod %s: %s: %s", pod.Name, condition.Reason, condition.Message)
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		return fmt.Sprintf("pod %s: %s", pod.Name, cmp.Or(pod.Status.Message, pod.Status.Reason))
	}
	return ""
}

// termination is the termination message of jfs-launch.
type termination struct {
	Stage  string   `json:"stage"`
	Code   int      `json:"code"`
	Stderr []string `json:"stderr"`
	Error  string   `json:"error"`
}

// explainEnd reads the termination message, which jfs-launch writes as JSON and
// which is the end of the log otherwise. Secrets were removed by jfs-launch.
func explainEnd(ended *corev1.ContainerStateTerminated) string {
	var message termination
	if err := json.Unmarshal([]byte(ended.Message), &message); err != nil || message.Stage == "" {
		lines := strings.Split(strings.TrimSpace(ended.Message), "\n")
		text := strings.Join(lines[max(0, len(lines)-maxLines):], "; ")
		return fmt.Sprintf("exit code %d%s", ended.ExitCode, suffix(text))
	}
	lines := message.Stderr[max(0, len(message.Stderr)-maxLines):]
	if message.Error != "" {
		lines = append([]string{message.Error}, lines...)
	}
	return fmt.Sprintf("%s: exit code %d%s", message.Stage, message.Code, suffix(strings.Join(lines, "; ")))
}
