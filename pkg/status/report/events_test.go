package report

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// TestEventsBeforeRun: an event of the time when the agent is made, as that of a proxy mode that is
// not programmed, is sent once it runs, and not before.
func TestEventsBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		e := NewEvents(client, "n1", slog.New(slog.DiscardHandler))
		sent := func() int {
			synctest.Wait()
			list, err := client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return len(list.Items)
		}
		e.Event(NodeRef("n1"), corev1.EventTypeWarning, "ProxyModeFallback", "early")
		if n := sent(); n != 0 {
			t.Errorf("%d events were sent before Run", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		if n := sent(); n != 1 {
			t.Errorf("%d events were sent, want 1", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
