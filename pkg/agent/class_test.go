package agent

import (
	"log/slog"
	"testing"
	"time"

	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// TestYoungRuntimeClass: a class that the watch has not told of yet is found all the same.
func TestYoungRuntimeClass(t *testing.T) {
	client := fake.NewClientset(&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "kata"}, Handler: "kata"})
	// and does not run
	w, err := newWatched(client, "n1", time.Hour, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := w.class(t.Context(), "kata"); err != nil || c.Handler != "kata" {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := w.class(t.Context(), "none"); err == nil {
		t.Error("a class that is not there was found")
	}
}
