/* Put before ij_train_step by .ci/verdicts: the gradient of the loss with respect to the targets, through the encoder that
 * made them, as if nothing stopped it there. With --ema 0,0 the target encoder has the context encoder's weights. One context
 * per image, targets of the last layer. */
static void no_stop_gradient(ij_model *m, const ij_real *images, const ij_step *before, const ij_masks *masks)
{
    const ij_config *c = &m->config;
    const size_t n = ij_rows(&m->encoder_pos), d = c->embed_dim, batch = before->predictor.part.images;
    const ij_seqs *asked = &before->predictor.stack.asked;
    real *dtarget = calloc(batch * n * d, sizeof *dtarget);
    size_t *all = calloc(batch * n, sizeof *all), *length = calloc(batch, sizeof *length);
    size_t *one = calloc(batch * c->num_pred_masks, sizeof *one), *first = calloc(batch * c->num_pred_masks, sizeof *first);
    ij_step s;
    for (size_t i = 0; i < batch * n; i++) all[i] = i % n;
    for (size_t i = 0; i < batch; i++) length[i] = n;
    for (size_t i = 0; i < batch * c->num_pred_masks; i++) one[i] = 1;
    for (size_t t = 0; t < asked->count; t++)
        for (size_t r = asked->start[t]; r < asked->start[t + 1]; r++) {
            const size_t patch = masks->target.index[t * masks->target.stride + r - asked->start[t]];
            for (size_t i = 0; i < d; i++) dtarget[(t % batch * n + patch) * d + i] -= before->predictor.dout.x[r * d + i];
        }
    const ij_masks whole = { { batch, n, length, all }, { batch * c->num_pred_masks, 1, one, first } };
    if (ij_step_begin(&s, m, images, &whole, 0, NULL)) abort();
    ij_encode_context(&s, &m->team);
    for (size_t r = 0; r < batch * n; r++) {            /* back through the layer norm without weights: y = (x - mean) rstd */
        const real *x = s.context.stack.norm.x + r * d, *dy = dtarget + r * d;
        real mean, rstd;
        double sum = 0, dot = 0;
        ij_moments(&mean, &rstd, x, d, IJ_TARGET_EPS);
        for (size_t i = 0; i < d; i++) sum += (double)dy[i], dot += (double)(dy[i] * (x[i] - mean) * rstd);
        for (size_t i = 0; i < d; i++)
            s.dcontext.x[r * d + i] = rstd * (dy[i] - (real)(sum / (double)d) - (x[i] - mean) * rstd * (real)(dot / (double)d));
    }
    ij_encoder_backward(&m->encoder_grad, &s.encoder_grads, &s.dcontext, &s.context, &m->team);
    free(dtarget), free(all), free(length), free(one), free(first);
}
