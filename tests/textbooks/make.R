# The models of textbooks as R 4.2.2 fits them: `Rscript make.R` writes the tables of data beside this file, and
# theirs.json with what R says of each. Data that are typed here were published in books, the rest come with R's packages.
# Not kept are spector.csv and scotland.csv, written from `statsmodels.api.datasets.spector.load_pandas().data` and the like,
# and randhie.csv from examples/data/randhie.parquet.
suppressMessages({
  library(MASS); library(survival); library(nnet); library(lme4); library(pscl); library(mgcv); library(jsonlite)
})
options(contrasts = c("contr.treatment", "contr.treatment"))
exact <- glm.control(epsilon = 1e-14, maxit = 200)
theirs <- list()

write_table <- function(name, d) write.csv(d, paste0(name, ".csv"), row.names = FALSE, quote = FALSE)

keep <- function(name, est, se, ...) {
  facts <- lapply(list(...), function(v) signif(as.numeric(v), 10))
  theirs[[name]] <<- list(term = I(names(est)), estimate = I(signif(as.numeric(est), 10)),
                         std_err = I(signif(as.numeric(se), 8)), facts = facts)
}

keep_glm <- function(name, m, dispersion = NULL, loglik = TRUE) {
  s <- summary(m, dispersion = dispersion)$coefficients
  facts <- list(deviance = deviance(m), df_resid = df.residual(m))
  if (loglik) facts$loglik <- as.numeric(logLik(m))
  if (is.null(dispersion) && !(m$family$family %in% c("binomial", "poisson")) && !grepl("^Negative", m$family$family))
    facts$dispersion <- summary(m)$dispersion
  do.call(keep, c(list(name, setNames(s[, 1], rownames(s)), s[, 2]), facts))
}

# binomial ----------------------------------------------------------------------------------------------------
beetles <- data.frame(dose = c(1.6907, 1.7242, 1.7552, 1.7842, 1.8113, 1.8369, 1.8610, 1.8839),
                      killed = c(6, 13, 18, 28, 52, 53, 61, 60), beetles = c(59, 60, 62, 56, 63, 59, 62, 60))
write_table("beetles", beetles)
for (l in c("logit", "probit", "cloglog"))
  keep_glm(paste0("beetles_", l), glm(cbind(killed, beetles - killed) ~ dose, binomial(l), beetles, control = exact))

insects <- data.frame(conc = 0:4, dead = c(2, 8, 15, 23, 27), insects = 30)
write_table("insects", insects)
keep_glm("insects", glm(cbind(dead, insects - dead) ~ conc, binomial, insects, control = exact))

orings <- data.frame(temp = c(53, 57, 58, 63, 66, 67, 67, 67, 68, 69, 70, 70, 70, 70, 72, 73, 75, 75, 76, 76, 78, 79, 81),
                     damaged = c(5, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0))
write_table("orings", orings)
keep_glm("orings", glm(cbind(damaged, 6 - damaged) ~ temp, binomial, orings, control = exact))

budworm <- data.frame(ldose = rep(0:5, 2), sex = rep(c("M", "F"), each = 6),
                      dead = c(1, 4, 9, 13, 18, 20, 0, 2, 6, 10, 12, 16), moths = 20)
write_table("budworm", budworm)
keep_glm("budworm", glm(cbind(dead, moths - dead) ~ sex * ldose, binomial, budworm, control = exact))

snoring <- data.frame(score = c(0, 2, 4, 5), ill = c(24, 35, 21, 30), men = c(1379, 638, 213, 254))
write_table("snoring", snoring)
keep_glm("snoring", glm(cbind(ill, men - ill) ~ score, binomial("identity"), snoring, control = exact, start = c(0.02, 0.02)))

penalty <- data.frame(defendant = c("white", "white", "black", "black"), victim = c("white", "black", "white", "black"),
                      death = c(53, 0, 11, 4), cases = c(467, 16, 48, 143))
write_table("death_penalty", penalty)
keep_glm("death_penalty", glm(cbind(death, cases - death) ~ defendant + victim, binomial, penalty, control = exact))

spores <- data.frame(grams = 2^(-7:2), plates = 5, with_spores = c(0, 0, 2, 2, 3, 4, 5, 5, 5, 5))
write_table("spores", spores)
keep_glm("spores", glm(cbind(with_spores, plates - with_spores) ~ 1 + offset(log(grams)), binomial("cloglog"), spores, control = exact))

seeds <- data.frame(seed = rep(c("O75", "O73"), c(11, 10)), extract = rep(c("bean", "cucumber", "bean", "cucumber"), c(5, 6, 5, 5)),
                    germinated = c(10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3),
                    plate = 1:21, seeds = c(39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7))
write_table("seeds", seeds)
keep_glm("seeds_quasi", glm(cbind(germinated, seeds - germinated) ~ seed * extract, quasibinomial, seeds, control = exact), loglik = FALSE)

m <- glmer(cbind(germinated, seeds - germinated) ~ seed * extract + (1 | plate), seeds, binomial,
           control = glmerControl(optimizer = "bobyqa", tolPwrss = 1e-12, optCtrl = list(rhoend = 1e-10)))
keep("seeds_mixed", fixef(m), sqrt(diag(vcov(m, use.hessian = TRUE))), sd_plate = as.data.frame(VarCorr(m))$sdcor[1],
     loglik = as.numeric(logLik(m)))

write_table("birthwt", birthwt[, c("low", "age", "lwt", "race", "smoke", "ptl", "ht", "ui", "ftv")])
keep_glm("low_birth_weight", glm(low ~ lwt + factor(race) + smoke + ptl + ht + ui, binomial, birthwt, control = exact))

write_table("esoph", data.frame(age = as.integer(esoph$agegp), alcohol = as.integer(esoph$alcgp), tobacco = as.integer(esoph$tobgp),
                                cases = esoph$ncases, controls = esoph$ncontrols))
keep_glm("esoph", glm(cbind(ncases, ncontrols) ~ factor(unclass(agegp)) + unclass(tobgp) + unclass(alcgp), binomial, esoph, control = exact))

titanic <- reshape(as.data.frame(Titanic), idvar = c("Class", "Sex", "Age"), timevar = "Survived", direction = "wide")
names(titanic) <- c("class", "sex", "age", "lost", "saved")
titanic <- titanic[titanic$lost + titanic$saved > 0, ]
write_table("titanic", titanic)
titanic <- read.csv("titanic.csv", stringsAsFactors = TRUE)
keep_glm("titanic", glm(cbind(saved, lost) ~ class + sex * age, binomial, titanic, control = exact))

spector <- read.csv("spector.csv")
keep_glm("spector_logit", glm(GRADE ~ GPA + TUCE + PSI, binomial, spector, control = exact))
probit <- glm(GRADE ~ GPA + TUCE + PSI, binomial("probit"), spector, control = exact)
keep_glm("spector_probit", probit)

# counts ------------------------------------------------------------------------------------------------------
doctors <- data.frame(age = rep(1:5, 2), smokes = rep(1:0, each = 5), deaths = c(32, 104, 206, 186, 102, 2, 12, 28, 28, 31),
                      years = c(52407, 43248, 28612, 12663, 5317, 18790, 10673, 5710, 2585, 1462))
write_table("doctors", doctors)
keep_glm("doctors", glm(deaths ~ smokes + age + I(age^2) + smokes:age + offset(log(years)), poisson, doctors, control = exact))

trial <- data.frame(outcome = rep(1:3, 3), treatment = rep(1:3, each = 3), counts = c(18, 17, 15, 20, 10, 20, 25, 13, 12))
write_table("trial", trial)
keep_glm("trial", glm(counts ~ factor(outcome) + factor(treatment), poisson, trial, control = exact))

melanoma <- data.frame(type = rep(c("freckle", "indeterminate", "nodular", "superficial"), each = 3), site = rep(c("extremities", "head", "trunk"), 4),
                       patients = c(10, 22, 2, 28, 11, 17, 73, 19, 33, 115, 16, 54))
write_table("melanoma", melanoma)
keep_glm("melanoma", glm(patients ~ type + site, poisson, melanoma, control = exact))

drugs <- data.frame(alcohol = rep(c("yes", "no"), each = 4), cigarettes = rep(rep(c("yes", "no"), each = 2), 2),
                    marijuana = rep(c("yes", "no"), 4), students = c(911, 538, 44, 456, 3, 43, 2, 279))
write_table("drugs", drugs)
keep_glm("drugs", glm(students ~ (alcohol + cigarettes + marijuana)^2, poisson, drugs, control = exact))

berkeley <- as.data.frame(UCBAdmissions)
names(berkeley) <- c("admitted", "gender", "dept", "applicants")
write_table("berkeley", berkeley)
keep_glm("berkeley", glm(applicants ~ admitted * dept + gender * dept, poisson, transform(berkeley,
  admitted = factor(as.character(admitted)), gender = factor(as.character(gender))), control = exact))

crabs <- read.csv("../pathology/glm2_crabs.csv")
keep_glm("crabs_poisson", glm(Satellites ~ Width, poisson, crabs, control = exact))
keep_glm("crabs_logit", glm(as.numeric(Satellites > 0) ~ Width, binomial, crabs, control = exact))
nb <- glm.nb(Satellites ~ Width, crabs, control = glm.control(epsilon = 1e-14, maxit = 500))
keep("crabs_nb", coef(nb), summary(nb)$coefficients[, 2], theta = nb$theta, deviance = deviance(nb), loglik = nb$twologlik / 2)

write_table("insurance", data.frame(district = Insurance$District, group = as.integer(Insurance$Group), age = as.integer(Insurance$Age),
                                    holders = Insurance$Holders, claims = Insurance$Claims))
insurance <- read.csv("insurance.csv")
keep_glm("insurance", glm(claims ~ factor(district) + factor(group) + factor(age) + offset(log(holders)), poisson, insurance, control = exact))

write_table("ships", subset(ships, service > 0))
keep_glm("ships", glm(incidents ~ type + factor(year) + factor(period) + offset(log(service)), quasipoisson, subset(ships, service > 0), control = exact), loglik = FALSE)

write_table("quine", quine)
nb <- glm.nb(Days ~ Sex / (Age + Eth * Lrn), quine, control = glm.control(epsilon = 1e-14, maxit = 500))
keep("quine", coef(nb), summary(nb)$coefficients[, 2], theta = nb$theta, deviance = deviance(nb), loglik = nb$twologlik / 2)

rand <- transform(read.csv("randhie.csv"), health = factor(health, c("excellent", "good", "fair", "poor")))
nb <- glm.nb(visits ~ log_coinsurance + individual_plan + log_incentive + log_deductible + limitation + chronic + health, rand,
             control = glm.control(epsilon = 1e-14, maxit = 500))
keep("randhie", coef(nb), summary(nb)$coefficients[, 2], theta = nb$theta, deviance = deviance(nb), loglik = nb$twologlik / 2)

write_table("warpbreaks", warpbreaks)
keep_glm("warpbreaks", glm(breaks ~ wool * tension, quasipoisson, warpbreaks, control = exact), loglik = FALSE)

articles <- data.frame(art = bioChemists$art, fem = as.integer(bioChemists$fem == "Women"), mar = as.integer(bioChemists$mar == "Married"),
                       kid5 = bioChemists$kid5, phd = bioChemists$phd, ment = bioChemists$ment)
write_table("articles", articles)
zip <- zeroinfl(art ~ ., articles, control = zeroinfl.control(reltol = 1e-15, maxit = 50000))
keep("articles_zero_inflated", c(zip$coefficients$count, zip$coefficients$zero), sqrt(diag(vcov(zip))), loglik = zip$loglik)
hur <- hurdle(art ~ ., articles, dist = "poisson", control = hurdle.control(reltol = 1e-15, maxit = 50000))
keep("articles_hurdle", c(hur$coefficients$count, -hur$coefficients$zero), sqrt(diag(vcov(hur))), loglik = hur$loglik)

# positive responses ------------------------------------------------------------------------------------------
clotting <- data.frame(u = rep(c(5, 10, 15, 20, 30, 40, 60, 80, 100), 2), lot = rep(1:2, each = 9),
                       seconds = c(118, 58, 42, 35, 27, 25, 21, 19, 18, 69, 35, 26, 21, 18, 16, 13, 12, 12))
write_table("clotting", clotting)
for (l in 1:2) keep_glm(paste0("clotting_", l), glm(seconds ~ log(u), Gamma, subset(clotting, lot == l), control = exact), loglik = FALSE)

scotland <- read.csv("scotland.csv")
keep_glm("scotland", glm(YES ~ COUTAX + UNEMPF + MOR + ACT + GDP + AGE + COUTAX:UNEMPF, Gamma, scotland, control = exact), loglik = FALSE)

write_table("cpus", cpus[, c("syct", "mmin", "mmax", "cach", "perf")])
keep_glm("cpus", glm(perf ~ log(mmax) + log(mmin) + sqrt(cach), inverse.gaussian("log"), cpus, control = exact))

write_table("anorexia", anorexia)
keep_glm("anorexia", glm(Postwt ~ Prewt + Treat + offset(Prewt), gaussian, anorexia, control = exact), loglik = FALSE)

# times -------------------------------------------------------------------------------------------------------
surv <- survreg.control(rel.tolerance = 1e-14, maxiter = 200)
write_table("leuk", leuk)
m <- survreg(Surv(time) ~ ag * log(wbc), leuk, dist = "exponential", control = surv)
keep("leuk", coef(m), sqrt(diag(vcov(m))), loglik = m$loglik[2])
write_table("gehan", gehan)
m <- survreg(Surv(time, cens) ~ treat, gehan, dist = "weibull", control = surv)
keep("gehan_weibull", c(coef(m), "log scale" = log(m$scale)), sqrt(diag(vcov(m))), loglik = m$loglik[2])
m <- survreg(Surv(time, cens) ~ treat, gehan, dist = "exponential", control = surv)
keep("gehan_exponential", coef(m), sqrt(diag(vcov(m))), loglik = m$loglik[2])
write_table("ovarian", ovarian[, c("futime", "fustat", "age", "rx", "ecog.ps")])
m <- survreg(Surv(futime, fustat) ~ ecog.ps + rx, ovarian, dist = "lognormal", control = surv)
keep("ovarian", c(coef(m), "log scale" = log(m$scale)), sqrt(diag(vcov(m))), loglik = m$loglik[2])

# classes -----------------------------------------------------------------------------------------------------
ordered_by <- function(name, formula, d) {
  m <- polr(formula, d, weights = n, Hess = TRUE, control = list(reltol = 1e-15, maxit = 1000))
  keep(name, c(coef(m), m$zeta), sqrt(diag(vcov(m))), loglik = as.numeric(logLik(m)))
}
cheese <- data.frame(cheese = rep(c("A", "B", "C", "D"), each = 9), score = rep(1:9, 4),
                     n = c(0, 0, 1, 7, 8, 8, 19, 8, 1, 6, 9, 12, 11, 7, 6, 1, 0, 0, 1, 1, 6, 8, 23, 7, 5, 1, 0, 0, 0, 0, 1, 3, 7, 14, 16, 11))
cheese <- subset(cheese, n > 0)
write_table("cheese", cheese)
ordered_by("cheese", factor(score) ~ cheese, cheese)
miners <- data.frame(years = rep(c(5.8, 15, 21.5, 27.5, 33.5, 39.5, 46, 51.5), each = 3), grade = rep(0:2, 8),
                     n = c(98, 0, 0, 51, 2, 1, 34, 6, 3, 35, 5, 8, 32, 10, 9, 23, 7, 8, 12, 6, 10, 4, 2, 5))
miners <- subset(miners, n > 0)
write_table("miners", miners)
ordered_by("miners", factor(grade) ~ log(years), miners)
housing2 <- data.frame(sat = as.integer(housing$Sat) - 1, infl = as.integer(housing$Infl), type = housing$Type,
                       cont = as.integer(housing$Cont), n = housing$Freq)
write_table("housing", housing2)
ordered_by("housing_ordered", factor(sat) ~ factor(infl) + type + factor(cont), transform(housing2, type = factor(as.character(type))))

classes_by <- function(name, formula, d) {
  m <- nnet::multinom(formula, d, weights = n, trace = FALSE, abstol = 1e-12, reltol = 1e-15, maxit = 5000, Hess = TRUE)
  s <- summary(m)
  wide <- function(v) setNames(as.vector(t(v)), as.vector(t(outer(rownames(v), colnames(v), paste, sep = ":"))))
  keep(name, wide(s$coefficients), wide(s$standard.errors), loglik = -m$value)
}
classes_by("housing_classes", factor(sat) ~ factor(infl) + type + factor(cont), transform(housing2, type = factor(as.character(type))))
cars <- data.frame(sex = rep(c("women", "men"), each = 9), age = rep(rep(c("18-23", "24-40", "over 40"), each = 3), 2),
                   importance = rep(0:2, 6), n = c(26, 12, 7, 9, 21, 15, 5, 14, 41, 40, 17, 8, 17, 15, 12, 8, 15, 18))
write_table("cars", cars)
classes_by("cars", factor(importance) ~ sex + age, cars)
ordered_by("cars_ordered", factor(importance) ~ sex + age, cars)

# groups and curves -------------------------------------------------------------------------------------------
write_table("sleepstudy", sleepstudy)
m <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, control = lmerControl(optCtrl = list(xtol_rel = 1e-12, ftol_abs = 1e-14)))
v <- as.data.frame(VarCorr(m))
keep("sleepstudy", fixef(m), sqrt(diag(vcov(m))), sd_intercept = v$sdcor[1], sd_slope = v$sdcor[2], correlation = v$sdcor[3], sd_residual = v$sdcor[4])
write_table("cbpp", cbpp)
m <- glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial, control = glmerControl(optimizer = "bobyqa", tolPwrss = 1e-12, optCtrl = list(rhoend = 1e-10)))
keep("cbpp", fixef(m), sqrt(diag(vcov(m, use.hessian = TRUE))), sd_intercept = as.data.frame(VarCorr(m))$sdcor[1], loglik = as.numeric(logLik(m)))
write_table("trees", trees)
m <- gam(Volume ~ s(Girth, bs = "cr", k = 10) + s(Height, bs = "cr", k = 10), Gamma("log"), trees, method = "REML")
keep("trees", coef(m)[1], sqrt(diag(vcov(m)))[1], edf_girth = sum(m$edf[2:10]), edf_height = sum(m$edf[11:19]), deviance = deviance(m), dispersion = m$scale)
write_table("mcycle", mcycle)
m <- gam(accel ~ s(times, bs = "cr", k = 20), data = mcycle, method = "REML",
         control = gam.control(epsilon = 1e-13, mgcv.tol = 1e-13, maxit = 500, newton = list(conv.tol = 1e-11)))
keep("mcycle", coef(m)[1], sqrt(diag(vcov(m)))[1], edf = sum(m$edf[-1]), deviance = deviance(m), dispersion = m$sig2)

write_json(theirs, "theirs.json", digits = NA, pretty = TRUE, auto_unbox = TRUE)
